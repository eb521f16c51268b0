# The parameters of deploy/template.yaml, in snake case, and the three files and names that SAM provides itself.

variable "name" {
  type        = string
  default     = "certlet"
  description = "The name of the function and of the API."
}

variable "zip" {
  type        = string
  description = "The Lambda zip (make zip)."
}

variable "openapi" {
  type        = string
  description = "The rendered contract (certlet openapi --region REGION --account ACCOUNT --function NAME)."
}

variable "tags" {
  type        = map(string)
  default     = {}
  description = "Tags of every resource that has tags."
}

variable "architecture" {
  type        = string
  default     = "arm64"
  description = "The architecture that the zip was built for: arm64 or x86_64."
}

variable "stage" {
  type        = string
  default     = "prod"
  description = "The name of the stage."
}

variable "ca_key" {
  type        = string
  default     = "file:"
  description = "Where the signing CA's key is: in the zip (file:), secretsmanager:NAME, or kms:KEY-ID."
}

variable "ca_key_arn" {
  type        = string
  default     = ""
  description = "The ARN of that secret or KMS key; empty for a key in the zip."
}

variable "ca_decrypt_key_arn" {
  type        = string
  default     = ""
  description = "The ARN of the customer-managed KMS key that encrypts the SSM parameter or the secret; empty for AWS's own."
}

variable "previous_key_arns" {
  type        = list(string)
  default     = []
  description = "The ARNs of the secrets and KMS keys with the keys of CAs before a rollover."
}

variable "ca_passphrase_parameter" {
  type        = string
  default     = ""
  description = "The SSM SecureString with the key's passphrase, such as /certlet/passphrase; empty for none."
}

variable "renew_before" {
  type        = string
  default     = ""
  description = "Clients are asked to renew certificates that were issued before this time (RFC 3339); empty for none."
}

variable "renew_over" {
  type        = string
  default     = "P1D"
  description = "The period after renew_before over which these renewals are spread (ISO 8601)."
}

variable "metrics_namespace" {
  type        = string
  default     = ""
  description = "The CloudWatch namespace of the metrics in the audit log; empty for no metrics."
}

variable "rate" {
  type        = number
  default     = 10
  description = "Requests a second of each API key."
}

variable "burst" {
  type        = number
  default     = 20
  description = "Requests of each API key at once."
}

variable "stage_rate" {
  type        = number
  default     = 50
  description = "Requests a second of all callers together, for each method, such as POST /ocsp; not less than rate."
}

variable "stage_burst" {
  type        = number
  default     = 100
  description = "Requests of all callers at once, for each method; not less than burst."
}

variable "ledger" {
  type        = string
  default     = "none"
  description = "none, or dynamodb: a table stores revoked certificates, and ACME's accounts and orders."
}

variable "quota" {
  type        = number
  default     = 10000
  description = "Requests of each API key in a period, and ACME orders of each principal without order_quota."
}

variable "period" {
  type        = string
  default     = "DAY"
  description = "The period of the quota: DAY, WEEK or MONTH."
}

variable "order_quota" {
  type        = string
  default     = ""
  description = "ACME orders of each principal in a period, such as 10000/DAY, or none; empty for quota and period."
}

variable "api_keys" {
  type        = string
  default     = "a"
  description = "Which of two API keys exist: a, b or both. Rotate from a to both, then to b."
}

variable "concurrency" {
  type        = number
  default     = null
  description = "Concurrent executions reserved for the function, which also limits it to 10 times as many requests a second; null to reserve none."
}

variable "memory_size" {
  type        = number
  default     = 512
  description = "The function's memory in MB, at least 256. Its share of a processor is in proportion, 1769 MB are one vCPU."
}

variable "log_retention" {
  type        = number
  default     = 365
  description = "Days to keep the audit log, which is the only record of issued certificates."
}

variable "alarm_topic_arn" {
  type        = string
  default     = ""
  description = "The SNS topic that the alarm notifies; empty for none."
}

variable "access_log" {
  type        = string
  default     = "off"
  description = "API Gateway's access log, on or off. It requires the account's CloudWatch role."
}

variable "est" {
  type        = string
  default     = "off"
  description = "Whether the rendered contract has EST (certlet openapi --est): on or off."
}

variable "oidc" {
  type        = string
  default     = "off"
  description = "Whether the rendered contract accepts tokens (certlet openapi --oidc): on or off."
}

variable "est_line_length" {
  type        = string
  default     = "0"
  description = "The characters in a line of the base64 of EST responses: 0 (one line), 64 or 76."
}

variable "auth" {
  type        = string
  default     = "api-key"
  description = "How the rendered contract identifies callers (certlet openapi --auth): api-key or iam."
}

variable "public_url" {
  type        = string
  default     = ""
  description = "The URL of the API for its users (certlet openapi --public-url); empty for relative problem types."
}

variable "status_url" {
  type        = string
  default     = ""
  description = "The http:// URL under which verifiers reach CRLs, OCSP and issuer certificates; empty for that of the CA's directory, or public_url."
}

variable "status_distribution" {
  type        = string
  default     = "off"
  description = "Whether a CloudFront distribution serves OCSP, CRLs and issuer certificates by plain HTTP (on or off); not for a private API."
}

variable "vpc_endpoint_ids" {
  type        = list(string)
  default     = []
  description = "The VPC endpoints that a private API is limited to (certlet openapi --vpc-endpoint); empty for a public API."
}

variable "api_domain" {
  type        = string
  default     = ""
  description = "A host name for the whole API; you create its DNS record. Empty for none."
}

variable "api_domain_certificate_arn" {
  type        = string
  default     = ""
  description = "The ACM certificate of api_domain, in this region."
}

variable "api_base_path" {
  type        = string
  default     = ""
  description = "The path of the API under api_domain; empty for /."
}

variable "est_domain" {
  type        = string
  default     = ""
  description = "EST's host name; you create its DNS record. Empty for none."
}

variable "est_certificate_arn" {
  type        = string
  default     = ""
  description = "The ACM certificate of est_domain, in this region."
}

variable "est_renewal_domain" {
  type        = string
  default     = ""
  description = "The host name that requires client certificates, for simplereenroll; empty for none."
}

variable "est_renewal_certificate_arn" {
  type        = string
  default     = ""
  description = "The ACM certificate of est_renewal_domain, in this region."
}

variable "est_renewal_ownership_certificate_arn" {
  type        = string
  default     = ""
  description = "A public ACM certificate that proves ownership of est_renewal_domain, if its own is imported or private."
}

variable "est_truststore" {
  type        = string
  default     = ""
  description = "The S3 object with the content of GET /ca.pem, such as s3://bucket/ca.pem."
}

variable "est_truststore_version" {
  type        = string
  default     = ""
  description = "The S3 version of est_truststore; empty for the latest."
}
