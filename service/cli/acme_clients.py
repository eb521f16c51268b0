"""What an ACME client needs to register an account: a command or a configuration, by its documentation.

The root's certificate is expected in the working directory of the client, as `root-ca.crt`.
"""

from __future__ import annotations

import shlex
from string import Template
from typing import Final

# $key and a key identifier consist of characters that need no quotes in YAML strings, Caddyfiles and Apache's
# configuration. A key may begin with a hyphen, so that options need an equals sign.
_CERTBOT: Final = """\
REQUESTS_CA_BUNDLE=root-ca.crt certbot certonly --standalone \\
    --agree-tos --register-unsafely-without-email --server $url \\
    --eab-kid $shell_kid --eab-hmac-key=$key \\
    -d my.example.com
"""
_LEGO: Final = """\
# version 5
LEGO_CA_CERTIFICATES=root-ca.crt lego run --server $url \\
    --accept-tos --email me@example.com --eab --eab.kid $shell_kid \\
    --eab.hmac=$key \\
    --http -d my.example.com
# version 4
LEGO_CA_CERTIFICATES=root-ca.crt lego --server $url \\
    --accept-tos --email me@example.com --eab --kid $shell_kid \\
    --hmac=$key \\
    --http -d my.example.com run
"""
_CADDY: Final = """\
{
    acme_ca $url
    acme_ca_root root-ca.crt
    acme_eab {
        key_id $kid
        mac_key $key
    }
}
"""
_CERT_MANAGER: Final = """\
kubectl apply -f - <<END
apiVersion: v1
kind: Secret
metadata:
  name: certlet-eab
  namespace: cert-manager
stringData:
  key: "$key"
---
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata:
  name: certlet
spec:
  acme:
    server: $url
    caBundle: $$(base64 < root-ca.crt | tr -d '\\n')
    externalAccountBinding:
      keyID: "$kid"
      keySecretRef:
        name: certlet-eab
        key: key
    privateKeySecretRef:
      name: certlet-account
    solvers:
    - http01:
        ingress:
          ingressClassName: nginx
END
"""
_TRAEFIK: Final = """\
certificatesResolvers:
  certlet:
    acme:
      caServer: $url
      caCertificates:
        - root-ca.crt
      email: me@example.com
      storage: acme.json
      eab:
        kid: "$kid"
        hmacEncoded: "$key"
      tlsChallenge: {}
"""
_ACME_SH: Final = """\
acme.sh --register-account --server $url --ca-bundle root-ca.crt \\
    --eab-kid $shell_kid \\
    --eab-hmac-key $key
acme.sh --issue --server $url --ca-bundle root-ca.crt \\
    --webroot /var/www/html -d my.example.com
"""
_UACME: Final = """\
# the host must trust the root (certlet trust)
uacme --acme-url $url --yes \\
    --eab $shell_kid:$key new
uacme --acme-url $url issue my.example.com
"""
_MOD_MD: Final = """\
MDCertificateAuthority $url
MDCertificateAgreement accepted
MDCACertificateFile root-ca.crt
MDExternalAccountBinding $kid $key
MDomain my.example.com
"""
_TEMPLATES: Final = {
    "certbot": _CERTBOT,
    "lego": _LEGO,
    "caddy": _CADDY,
    "cert-manager": _CERT_MANAGER,
    "traefik": _TRAEFIK,
    "acme.sh": _ACME_SH,
    "uacme": _UACME,
    "mod_md": _MOD_MD,
}
NAMES: Final = tuple(_TEMPLATES)


def format_configuration(client: str, url: str, key_id: str, key: str) -> str:
    """Return the lines for a client.

    Args:
        client: a name of `NAMES`.
        url: the URL of the ACME directory.
        key_id: the identifier of the external account key.
        key: the external account key, base64url without padding.
    """
    template = Template(_TEMPLATES[client])
    return template.substitute(url=url, kid=key_id, shell_kid=shlex.quote(key_id), key=key)
