#!/usr/bin/env bash
# smoke.sh URL KEY [STACK]: check on a deployment what can only be confirmed there. docs/reference/gateway.md has the list.
# KEY is an API key, or "iam" to sign requests with the AWS_ variables of the environment.
#
# Prints "holds", "fails" or "not checked" for each statement, and exits with 1 if one fails. It issues three
# certificates under the default profile and takes less than two minutes. It requires curl, openssl and python3;
# with STACK, it also requires the aws command and credentials that may read the stack.
# shellcheck disable=SC2329 # `check` calls the functions by name
set -uo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 URL KEY [STACK]" >&2
  exit 2
fi
url=${1%/} key=$2 stack=${3:-} failed=0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
umask 077
if [ "$key" = iam ]; then # in a file, since ps shows arguments
  printf 'aws-sigv4 = "aws:amz:%s:execute-api"\nuser = "%s:%s"\n' "$AWS_REGION" "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" > "$dir/key"
  [ -z "${AWS_SESSION_TOKEN:-}" ] || printf 'header = "x-amz-security-token: %s"\n' "$AWS_SESSION_TOKEN" >> "$dir/key"
else
  printf 'header = "x-api-key: %s"\n' "$key" > "$dir/key"
fi
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/host.key" -subj / \
  -addext subjectAltName=DNS:smoke.example.com -out "$dir/host.csr" 2> "$dir/error" || { cat "$dir/error"; exit 2; }
openssl req -in "$dir/host.csr" -outform DER -out "$dir/host.der"
python3 -c 'import json, sys; print(json.dumps({"csr": open(sys.argv[1]).read()}))' "$dir/host.csr" > "$dir/host.json"

holds() { echo "holds        $1"; }
fails() { echo "fails        $1: $2"; failed=1; }
not_checked() { echo "not checked  $1: $2"; }
check() { # STATEMENT COMMAND...
  if "${@:2}" > "$dir/error" 2>&1; then holds "$1"; else fails "$1" "$(tail -c 200 "$dir/error" | tr -cd '[:print:]')"; fi
}
# Sends a request; its status, head and body go to files. No client-side redirect: the API has none.
send() {
  curl --silent --show-error --max-time 20 --dump-header "$dir/head" --output "$dir/body" --write-out '%{http_code}' \
    "$@" > "$dir/status"
}
get() { # STATUS PATH [CURL ARGUMENT...]
  send "${@:3}" "$url$2" && [ "$(< "$dir/status")" = "$1" ] || { echo "$2: status $(< "$dir/status")"; return 1; }
}
header() { grep -iE "^$1: *$2" "$dir/head" || { echo "no header $1: $2"; return 1; }; }
problem() { # STATUS CODE PATH [CURL ARGUMENT...]: a problem document that names the request
  get "$1" "$3" "${@:4}" && header content-type 'application/problem\+json' && python3 - "$2" "$dir/body" "$dir/head" << 'PYTHON'
import json, re, sys
document, head = json.load(open(sys.argv[2])), open(sys.argv[3]).read()
request = re.search(r"(?im)^x-amzn-requestid: *(\S+)", head)[1]
assert document["code"] == sys.argv[1], document
assert document["instance"] == f"urn:uuid:{request}", (document["instance"], request)
PYTHON
}
page() { # PATH
  get 200 "$1" -H 'Accept: text/html' && header content-type text/html && python3 - "$dir/body" "$dir/head" << 'PYTHON'
import base64, hashlib, re, sys
page, head = open(sys.argv[1], "rb").read(), open(sys.argv[2]).read()
policy = re.search(r"(?im)^content-security-policy: *(.+)", head)[1]
parts = re.findall(rb"<(?:script|style)>(.*?)</(?:script|style)>", page, re.DOTALL)
assert parts, "no inline script or style"
for part in parts:
    digest = base64.b64encode(hashlib.sha256(part).digest()).decode()
    assert f"'sha256-{digest}'" in policy, f"the policy has no hash of a script or style: {policy}"
PYTHON
}
sign() {
  get 200 /sign --config "$dir/key" --json "@$dir/host.json" &&
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["crt_pem"])' "$dir/body" > "$dir/host.pem" &&
    get 200 /ca.pem && cp "$dir/body" "$dir/ca.pem" && get 200 /root.crt &&
    openssl x509 -inform DER -in "$dir/body" -out "$dir/root.pem" &&
    openssl verify -CAfile "$dir/root.pem" -untrusted "$dir/ca.pem" "$dir/host.pem"
}
der() { get 200 /ca.crt -H 'Accept: */*' && openssl x509 -inform DER -in "$dir/body" -noout; }
crl() { get 200 /ca.crl -H 'Accept: */*' && openssl crl -inform DER -in "$dir/body" -noout; }
ocsp() { # after `sign`
  local raw encoded path
  openssl ocsp -issuer "$dir/ca.pem" -cert "$dir/host.pem" -no_nonce -reqout "$dir/request.der" && raw=$(openssl base64 -A -in "$dir/request.der") || return 1
  encoded=${raw//+/%2B} encoded=${encoded//\//%2F} encoded=${encoded//=/%3D}
  for path in "$raw" "$encoded"; do
    get 200 "/ocsp/$path" || return 1 # unauthorized without serial.key
    openssl ocsp -respin "$dir/body" -resp_text -noverify 2>&1 | grep -E 'successful|unauthorized' || return 1
  done
}
sign_der() {
  get 200 /sign.pem --config "$dir/key" -H 'Content-Type: application/pkcs10' --data-binary "@$dir/host.der" &&
    openssl x509 -in "$dir/body" -noout
}
wrong_key() { # with EST, API Gateway's only response for it has to suit HTTP Basic
  local request=(/sign -H "x-api-key: $(printf 'x%.0s' {1..40})" --json "@$dir/host.json")
  problem 403 unauthorized "${request[@]}" || { problem 401 unauthorized "${request[@]}" && header www-authenticate Basic; }
}
other_type() { problem 415 unsupportedMediaType /health -X DELETE -H 'Content-Type: image/png' --data x; }
not_allowed() { problem 405 methodNotAllowed /health -X DELETE && header allow GET; }
preflight() { get 204 /sign -X OPTIONS -H 'Origin: https://example.com' && header access-control-allow-origin '\*'; }
too_large() { head -c 11000000 /dev/zero > "$dir/large" && get 413 /sign.pem --config "$dir/key" --data-binary "@$dir/large"; }
types() {
  python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["type"])' "$dir/body" > "$dir/type" &&
    send "$(< "$dir/type")" && [ "$(< "$dir/status")" = 200 ]
}
basic() { # STATUS USER:PASSWORD
  printf 'user = "%s"\n' "$2" > "$dir/basic"
  get "$1" /.well-known/est/simpleenroll --config "$dir/basic" -H 'Content-Type: application/pkcs10' \
    --data-binary "@$dir/base64"
}
no_password() { basic 401 "" && header www-authenticate Basic; }
challenge() { basic 401 "device:$(printf 'wrong%.0s' 1 2 3 4 5 6 7 8)" && header www-authenticate Basic; }

check "the form is HTML, and its policy permits its scripts and styles" page /sign
check "the start page is HTML, and its policy permits its scripts and styles" page /
check "the URL of the start page needs no final slash" page ""
check "the service answers" get 200 /health
check "a missing API key is a problem document that names the request" problem 403 unauthorized /sign --json "@$dir/host.json"
if [ "$key" = iam ]; then
  not_checked "a wrong API key is a problem document" "callers use IAM"
  check "an unknown path is a problem document" problem 403 unauthorized /nothing
else
  check "a wrong API key is a problem document" wrong_key
  check "an unknown path is a problem document" problem 404 notFound /nothing
fi
check "another method is a problem document with Allow" not_allowed
check "another method with an unknown Content-Type is 415" other_type
check "HEAD is answered as GET" get 200 /sign --head
check "a CORS preflight is answered" preflight
check "a query parameter reaches the function" problem 400 malformed '/health?a=1'
check "a slash at the end of a path does not matter" get 200 /health/
check "the certificate of a JSON request verifies" sign
check "a certificate in DER arrives as it was sent" der
check "a CRL in DER arrives as it was sent" crl
check "an OCSP request in a path arrives as it was sent" ocsp
check "a request in DER arrives as it was sent" sign_der
check "a body over 10 MB is 413" too_large

if get 403 /sign --json "@$dir/host.json" > "$dir/error" 2>&1 && grep -q '"type": *"https\?://' "$dir/body"; then
  check "the type of a problem is the URL of its description" types
else
  not_checked "the type of a problem is the URL of its description" "no public URL is set"
fi

if get 200 /.well-known/est/cacerts > "$dir/error" 2>&1; then
  openssl base64 -in "$dir/host.der" -out "$dir/base64"
  check "EST asks for HTTP Basic if there is no password" no_password
  check "EST asks for HTTP Basic if the password is wrong" challenge
  check "EST enrols with the API key as the password" basic 200 "device:$key"
else
  not_checked "EST enrols" "EST is off, or at another URL"
fi
not_checked "EST renews with a client certificate" "it requires the renewal domain and a truststore"
not_checked "exhausted Lambda concurrency is 503" "it would disturb other callers"
not_checked "quotas count by calendar days, weeks or months" "it would take a period"
not_checked "messages in gateway responses are quoted" "no request causes such a message"
not_checked "a base path of a domain does not matter" "run the script with the URL of that domain"
not_checked "a private API admits only its VPC endpoints" "run the script inside and outside of the VPC"

# Last, since it uses up the key's burst. AWS applies the limits as best it can, so that none of 80 may be refused. With
# IAM there is no usage plan, and the stage's limits are higher.
for _ in $(seq 80); do printf 'url = "%s/profiles/mine"\noutput = /dev/null\n' "$url"; done > "$dir/burst"
curl --silent --parallel --parallel-max 80 --max-time 20 --config "$dir/key" --config "$dir/burst" \
  --write-out '%{http_code}\n' 2> "$dir/error" | grep -c '^429' > "$dir/refused"
if [ "$(< "$dir/refused")" -gt 0 ]; then
  holds "more requests than the burst are 429"
else
  not_checked "more requests than the burst are 429" "none of 80 was refused"
fi

statements=("the document was imported without warnings" "the API has exactly one stage" "the audit log has the issued certificate" "the alarm exists")
if [ -z "$stack" ] || ! command -v aws > "$dir/error"; then
  for statement in "${statements[@]}"; do not_checked "$statement" "no STACK, or no aws command"; done
else
  resource() { aws cloudformation describe-stack-resource --stack-name "$stack" --logical-resource-id "$1" --query StackResourceDetail.PhysicalResourceId --output text; }
  imported() { resource Api | grep .; } # the template has FailOnWarnings
  one_stage() { [ "$(aws apigateway get-stages --rest-api-id "$(resource Api)" --query 'length(item)' --output text)" = 1 ]; }
  audit_log() {
    local serial
    serial=$(openssl x509 -in "$dir/host.pem" -noout -serial | cut -d= -f2 | tr 'A-F' 'a-f')
    for _ in 1 2 3 4 5 6; do # events take some seconds until they can be found
      aws logs filter-log-events --log-group-name "$(resource LogGroup)" --filter-pattern "\"$serial\"" --query 'events[].message' --output text | grep -q "$serial" && return
      sleep 5
    done
    return 1
  }
  alarm() { aws cloudwatch describe-alarms --alarm-names "$(resource Alarm)" --query 'MetricAlarms[].StateValue' --output text | grep .; }
  check "${statements[0]}" imported
  check "${statements[1]}" one_stage
  check "${statements[2]}" audit_log
  check "${statements[3]}" alarm
fi
exit $failed
