# make zip ZIP="--ca ca --output build/certlet.zip"
# certlet openapi --region eu-central-1 --account 123456789012 --function certlet > build/openapi.json

provider "aws" {
  region = "eu-central-1"
}

module "certlet" {
  source                  = "../"
  zip                     = "../../../build/certlet.zip"
  openapi                 = "../../../build/openapi.json"
  ca_passphrase_parameter = "/certlet/passphrase"
}

output "url" {
  value = module.certlet.url
}
