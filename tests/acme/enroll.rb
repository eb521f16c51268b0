# Registers, and requests a certificate with ruby-acme-client; without names, revokes it:
# enroll.rb DIRECTORY KEY_ID HMAC_KEY [NAME...]. Version 2.0.9 has no external accounts.
require "acme-client"

directory, _key_id, _hmac_key, *names = ARGV
File.write("account.key", OpenSSL::PKey::RSA.new(2048).to_pem) unless File.exist?("account.key")

client = Acme::Client.new(
  private_key: OpenSSL::PKey::RSA.new(File.read("account.key")),
  directory: directory
)
client.new_account(contact: "mailto:admin@example.com", terms_of_service_agreed: true)
if names.empty?
  client.revoke(certificate: OpenSSL::X509::Certificate.new(File.read("chain.pem")))
  exit
end
order = client.new_order(identifiers: names)
abort "an authorization is not valid" unless order.authorizations.all? { |item| item.status == "valid" }
order.finalize(csr: Acme::Client::CertificateRequest.new(names: names))
until order.status == "valid"
  abort "the order is #{order.status}" unless order.status == "processing"
  sleep 1
  order.reload
end
File.write("chain.pem", order.certificate)
