# Certlet on AWS: the resources of deploy/template.yaml. tests/deploy/test_terraform.py compares the two.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40, < 7"
    }
  }
}

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  key_a            = var.auth == "api-key" && var.api_keys != "b"
  key_b            = var.auth == "api-key" && var.api_keys != "a"
  key_names        = { for id in concat(aws_api_gateway_api_key.a[*].id, aws_api_gateway_api_key.b[*].id) : id => "default" }
  key_tokens       = var.auth == "api-key" && var.oidc == "on"
  with_est_domain  = var.est == "on" && var.est_domain != ""
  with_est_renewal = var.est == "on" && var.est_renewal_domain != ""
  private          = length(var.vpc_endpoint_ids) > 0

  # certlet openapi --disable-execute-api-endpoint sets it.
  execute_api_endpoint = !try(jsondecode(file(var.openapi)).servers[0]["x-amazon-apigateway-endpoint-configuration"].disableExecuteApiEndpoint, false)
}

resource "aws_lambda_function" "function" {
  function_name                  = var.name
  filename                       = var.zip
  source_code_hash               = filebase64sha256(var.zip)
  handler                        = "function.handler"
  runtime                        = "python3.13"
  architectures                  = [var.architecture]
  memory_size                    = var.memory_size
  timeout                        = 11 # a second over the integration's, so that API Gateway's 504 comes first
  reserved_concurrent_executions = var.concurrency
  role                           = aws_iam_role.role.arn
  tags                           = var.tags

  environment {
    variables = {
      CERTLET_CA_KEY                  = var.ca_key
      CERTLET_CA_PASSPHRASE_PARAMETER = var.ca_passphrase_parameter
      CERTLET_METRICS                 = var.metrics_namespace
      CERTLET_API_KEY_NAMES           = jsonencode(local.key_names)
      CERTLET_PUBLIC_URL              = var.public_url
      CERTLET_STATUS_URL              = var.status_url
      CERTLET_EST_LINE_LENGTH         = var.est_line_length
      CERTLET_RENEW_BEFORE            = var.renew_before
      CERTLET_RENEW_OVER              = var.renew_over
      CERTLET_LEDGER_TABLE            = one(aws_dynamodb_table.ledger_table[*].name)
      CERTLET_ORDER_QUOTA             = var.order_quota != "" ? var.order_quota : "${var.quota}/${var.period}"
      CERTLET_TOKEN_USAGE_KEY         = one(aws_api_gateway_api_key.tokens[*].value)
    }
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.log_group.name
  }
}

resource "aws_cloudwatch_log_group" "log_group" {
  name_prefix       = "${var.name}-"
  retention_in_days = var.log_retention
  skip_destroy      = true # the only record of issued certificates outlives the deployment
  tags              = var.tags
}

resource "aws_dynamodb_table" "ledger_table" {
  count                       = var.ledger == "dynamodb" ? 1 : 0
  name                        = "${var.name}-ledger"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "pk"
  range_key                   = "sk"
  deletion_protection_enabled = true # the revocations outlive the deployment
  tags                        = var.tags

  attribute {
    name = "pk"
    type = "S"
  }

  attribute {
    name = "sk"
    type = "S"
  }

  ttl {
    attribute_name = "expires"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }
}

resource "aws_iam_role" "role" {
  name_prefix = "${var.name}-"
  tags        = var.tags
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "policy" {
  name   = "certlet"
  role   = aws_iam_role.role.id
  policy = data.aws_iam_policy_document.policy.json
}

data "aws_iam_policy_document" "policy" {
  statement {
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.log_group.arn}:*"]
  }

  dynamic "statement" {
    for_each = startswith(var.ca_key, "kms:") ? [var.ca_key_arn] : []
    content {
      actions   = ["kms:GetPublicKey", "kms:Sign"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = aws_dynamodb_table.ledger_table[*].arn
    content {
      actions   = ["dynamodb:DeleteItem", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = startswith(var.ca_key, "secretsmanager:") ? [var.ca_key_arn] : []
    content {
      actions   = ["secretsmanager:GetSecretValue"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = length(var.previous_key_arns) > 0 ? [var.previous_key_arns] : []
    content {
      actions   = ["kms:GetPublicKey", "kms:Sign", "secretsmanager:GetSecretValue"]
      resources = statement.value
    }
  }

  dynamic "statement" {
    for_each = var.ca_passphrase_parameter != "" ? [var.ca_passphrase_parameter] : []
    content {
      actions   = ["ssm:GetParameter"]
      resources = ["arn:${data.aws_partition.current.partition}:ssm:${data.aws_region.current.name}:${data.aws_caller_identity.current.account_id}:parameter${statement.value}"]
    }
  }

  dynamic "statement" {
    for_each = var.ca_decrypt_key_arn != "" ? [var.ca_decrypt_key_arn] : []
    content {
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values = [
          "ssm.${data.aws_region.current.name}.${data.aws_partition.current.dns_suffix}",
          "secretsmanager.${data.aws_region.current.name}.${data.aws_partition.current.dns_suffix}",
        ]
      }
    }
  }
}

resource "aws_api_gateway_rest_api" "api" {
  name             = var.name # overrides info.title
  body             = file(var.openapi)
  fail_on_warnings = true
  tags             = var.tags

  endpoint_configuration {
    types            = [local.private ? "PRIVATE" : "REGIONAL"]
    vpc_endpoint_ids = local.private ? var.vpc_endpoint_ids : null
  }
}

# A deployment is a snapshot: without the trigger, a changed contract would not be deployed.
resource "aws_api_gateway_deployment" "deployment" {
  rest_api_id = aws_api_gateway_rest_api.api.id
  triggers    = { body = sha1(aws_api_gateway_rest_api.api.body) }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_api_gateway_stage" "stage" {
  rest_api_id   = aws_api_gateway_rest_api.api.id
  deployment_id = aws_api_gateway_deployment.deployment.id
  stage_name    = var.stage
  tags          = var.tags

  dynamic "access_log_settings" {
    for_each = aws_cloudwatch_log_group.access_log_group
    content {
      destination_arn = access_log_settings.value.arn
      format          = "{\"access\":\"$context.requestTime\",\"request_id\":\"$context.requestId\",\"source_ip\":\"$context.identity.sourceIp\",\"key\":\"$context.identity.apiKeyId\",\"method\":\"$context.httpMethod\",\"path\":\"$context.resourcePath\",\"status\":\"$context.status\",\"milliseconds\":\"$context.responseLatency\"}"
    }
  }
}

resource "aws_api_gateway_method_settings" "settings" {
  rest_api_id = aws_api_gateway_rest_api.api.id
  stage_name  = aws_api_gateway_stage.stage.stage_name
  method_path = "*/*"

  settings {
    throttling_rate_limit  = var.stage_rate
    throttling_burst_limit = var.stage_burst
    metrics_enabled        = false
  }
}

resource "aws_api_gateway_domain_name" "api_domain_name" {
  count                    = var.api_domain != "" ? 1 : 0
  domain_name              = var.api_domain
  regional_certificate_arn = var.api_domain_certificate_arn
  security_policy          = "TLS_1_2"
  tags                     = var.tags

  endpoint_configuration {
    types = ["REGIONAL"]
  }
}

resource "aws_api_gateway_base_path_mapping" "api_mapping" {
  count       = var.api_domain != "" ? 1 : 0
  api_id      = aws_api_gateway_rest_api.api.id
  stage_name  = aws_api_gateway_stage.stage.stage_name
  domain_name = aws_api_gateway_domain_name.api_domain_name[0].domain_name
  base_path   = var.api_base_path != "" ? var.api_base_path : null
}

resource "aws_api_gateway_domain_name" "est_domain_name" {
  count                    = local.with_est_domain ? 1 : 0
  domain_name              = var.est_domain
  regional_certificate_arn = var.est_certificate_arn
  security_policy          = "TLS_1_2"
  tags                     = var.tags

  endpoint_configuration {
    types = ["REGIONAL"]
  }
}

resource "aws_api_gateway_base_path_mapping" "est_mapping" {
  count       = local.with_est_domain ? 1 : 0
  api_id      = aws_api_gateway_rest_api.api.id
  stage_name  = aws_api_gateway_stage.stage.stage_name
  domain_name = aws_api_gateway_domain_name.est_domain_name[0].domain_name
}

resource "aws_api_gateway_domain_name" "est_renewal_domain_name" {
  count                                  = local.with_est_renewal ? 1 : 0
  domain_name                            = var.est_renewal_domain
  regional_certificate_arn               = var.est_renewal_certificate_arn
  ownership_verification_certificate_arn = var.est_renewal_ownership_certificate_arn != "" ? var.est_renewal_ownership_certificate_arn : null
  security_policy                        = "TLS_1_2"
  tags                                   = var.tags

  endpoint_configuration {
    types = ["REGIONAL"]
  }

  mutual_tls_authentication {
    truststore_uri     = var.est_truststore
    truststore_version = var.est_truststore_version != "" ? var.est_truststore_version : null
  }
}

resource "aws_api_gateway_base_path_mapping" "est_renewal_mapping" {
  count       = local.with_est_renewal ? 1 : 0
  api_id      = aws_api_gateway_rest_api.api.id
  stage_name  = aws_api_gateway_stage.stage.stage_name
  domain_name = aws_api_gateway_domain_name.est_renewal_domain_name[0].domain_name
}

# The origin's Cache-Control decides. Nothing but the path is in the cache key or forwarded.
resource "aws_cloudfront_cache_policy" "status" {
  count       = var.status_distribution == "on" ? 1 : 0
  name        = "${var.name}-status"
  min_ttl     = 0
  default_ttl = 0
  max_ttl     = 86400

  parameters_in_cache_key_and_forwarded_to_origin {
    enable_accept_encoding_gzip = false
    headers_config {
      header_behavior = "none"
    }
    cookies_config {
      cookie_behavior = "none"
    }
    query_strings_config {
      query_string_behavior = "none"
    }
  }
}

resource "aws_cloudfront_origin_request_policy" "status" {
  count = var.status_distribution == "on" ? 1 : 0
  name  = "${var.name}-status"

  headers_config {
    header_behavior = "whitelist"
    headers {
      items = ["Content-Type"]
    }
  }
  cookies_config {
    cookie_behavior = "none"
  }
  query_strings_config {
    query_string_behavior = "none"
  }
}

resource "aws_cloudfront_function" "status" {
  count   = var.status_distribution == "on" ? 1 : 0
  name    = "${var.name}-status"
  runtime = "cloudfront-js-2.0"
  comment = "Other paths are refused"
  publish = true
  code    = <<-EOT
    function handler(event) {
      return {statusCode: 403, statusDescription: 'Forbidden'};
    }
  EOT
}

resource "aws_cloudfront_distribution" "status" {
  count       = var.status_distribution == "on" ? 1 : 0
  enabled     = true
  price_class = "PriceClass_100"
  tags        = var.tags

  origin {
    origin_id   = "api"
    domain_name = var.api_domain != "" ? var.api_domain : "${aws_api_gateway_rest_api.api.id}.execute-api.${data.aws_region.current.name}.${data.aws_partition.current.dns_suffix}"
    origin_path = var.api_domain == "" ? "/${var.stage}" : var.api_base_path != "" ? "/${var.api_base_path}" : ""
    custom_origin_config {
      http_port              = 80
      https_port             = 443
      origin_protocol_policy = "https-only"
      origin_ssl_protocols   = ["TLSv1.2"]
    }
  }

  default_cache_behavior {
    target_origin_id       = "api"
    viewer_protocol_policy = "allow-all"
    allowed_methods        = ["GET", "HEAD"]
    cached_methods         = ["GET", "HEAD"]
    cache_policy_id        = aws_cloudfront_cache_policy.status[0].id
    function_association {
      event_type   = "viewer-request"
      function_arn = aws_cloudfront_function.status[0].arn
    }
  }

  dynamic "ordered_cache_behavior" {
    for_each = ["/ocsp", "/ocsp/*", "/crl/*", "/issuer/*", "/ca.crl", "/ca.crt", "/ca.p7c"]
    content {
      path_pattern             = ordered_cache_behavior.value
      target_origin_id         = "api"
      viewer_protocol_policy   = "allow-all"
      allowed_methods          = ordered_cache_behavior.value == "/ocsp" ? ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"] : ["GET", "HEAD"]
      cached_methods           = ["GET", "HEAD"]
      cache_policy_id          = aws_cloudfront_cache_policy.status[0].id
      origin_request_policy_id = ordered_cache_behavior.value == "/ocsp" ? aws_cloudfront_origin_request_policy.status[0].id : null
    }
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = true
  }

  lifecycle {
    precondition {
      condition     = !local.private
      error_message = "status_distribution cannot reach a private API (vpc_endpoint_ids). Set it to off."
    }
    precondition {
      condition     = local.execute_api_endpoint || var.api_domain != ""
      error_message = "Without the execute-api endpoint, status_distribution needs api_domain. Set it."
    }
  }
}

resource "aws_cloudwatch_log_group" "access_log_group" {
  count             = var.access_log == "on" ? 1 : 0
  name_prefix       = "${var.name}-access-"
  retention_in_days = var.log_retention
  tags              = var.tags
}

resource "aws_lambda_permission" "permission" {
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.function.function_name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_api_gateway_rest_api.api.execution_arn}/*"
}

resource "aws_api_gateway_api_key" "a" {
  count   = local.key_a ? 1 : 0
  name    = "${var.name}-a"
  enabled = true
  tags    = var.tags
}

resource "aws_api_gateway_api_key" "b" {
  count   = local.key_b ? 1 : 0
  name    = "${var.name}-b"
  enabled = true
  tags    = var.tags
}

# The callers with a token share it: API Gateway requires a key of the usage plan from each. AWS generates its value.
resource "aws_api_gateway_api_key" "tokens" {
  count   = local.key_tokens ? 1 : 0
  name    = "${var.name}-tokens"
  enabled = true
  tags    = var.tags
}

resource "aws_api_gateway_usage_plan" "usage_plan" {
  count = var.auth == "api-key" ? 1 : 0
  name  = var.name
  tags  = var.tags

  api_stages {
    api_id = aws_api_gateway_rest_api.api.id
    stage  = aws_api_gateway_stage.stage.stage_name
  }

  throttle_settings {
    rate_limit  = var.rate
    burst_limit = var.burst
  }

  quota_settings {
    limit  = var.quota
    period = var.period
  }
}

resource "aws_api_gateway_usage_plan_key" "a" {
  count         = local.key_a ? 1 : 0
  key_id        = aws_api_gateway_api_key.a[0].id
  key_type      = "API_KEY"
  usage_plan_id = aws_api_gateway_usage_plan.usage_plan[0].id
}

resource "aws_api_gateway_usage_plan_key" "b" {
  count         = local.key_b ? 1 : 0
  key_id        = aws_api_gateway_api_key.b[0].id
  key_type      = "API_KEY"
  usage_plan_id = aws_api_gateway_usage_plan.usage_plan[0].id
}

resource "aws_api_gateway_usage_plan_key" "tokens" {
  count         = local.key_tokens ? 1 : 0
  key_id        = aws_api_gateway_api_key.tokens[0].id
  key_type      = "API_KEY"
  usage_plan_id = aws_api_gateway_usage_plan.usage_plan[0].id
}

resource "aws_cloudwatch_metric_alarm" "alarm" {
  alarm_name          = var.name
  alarm_description   = "Certlet returned a 5XX status"
  namespace           = "AWS/ApiGateway"
  metric_name         = "5XXError"
  dimensions          = { ApiName = var.name }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arn != "" ? [var.alarm_topic_arn] : []
  tags                = var.tags
}

output "url" {
  description = "The API's base URL, where a browser gets the start page."
  value       = aws_api_gateway_stage.stage.invoke_url
}

output "status_distribution_url" {
  description = "The value of status_url in the next deployment."
  value       = one([for name in aws_cloudfront_distribution.status[*].domain_name : "http://${name}"])
}

output "log_group" {
  description = "The log group of the audit log."
  value       = aws_cloudwatch_log_group.log_group.name
}

output "ledger_table" {
  description = "The ledger's table."
  value       = one(aws_dynamodb_table.ledger_table[*].name)
}

output "api_target" {
  description = "The target of api_domain's DNS record."
  value       = one(aws_api_gateway_domain_name.api_domain_name[*].regional_domain_name)
}

output "est_target" {
  description = "The target of est_domain's DNS record."
  value       = one(aws_api_gateway_domain_name.est_domain_name[*].regional_domain_name)
}

output "est_renewal_target" {
  description = "The target of est_renewal_domain's DNS record."
  value       = one(aws_api_gateway_domain_name.est_renewal_domain_name[*].regional_domain_name)
}

output "api_key_id" {
  description = "The id of the newest API key."
  value       = one(concat(aws_api_gateway_api_key.b[*].id, local.key_b ? [] : aws_api_gateway_api_key.a[*].id))
}
