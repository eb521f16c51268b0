// Registers, and requests a certificate with acme-client; without names, revokes it:
// enroll.mjs DIRECTORY KEY_ID HMAC_KEY [NAME...]
import fs from "node:fs";
import acme from "acme-client";

const [directoryUrl, kid, hmacKey, ...names] = process.argv.slice(2);
if (!fs.existsSync("account.key")) fs.writeFileSync("account.key", await acme.crypto.createPrivateEcdsaKey());

const client = new acme.Client({
  directoryUrl,
  accountKey: fs.readFileSync("account.key"),
  externalAccountBinding: { kid, hmacKey },
});
if (names.length === 0) {
  await client.createAccount();
  await client.revokeCertificate(fs.readFileSync("chain.pem"));
  process.exit();
}
const [, csr] = await acme.crypto.createCsr({ altNames: names });
const fail = async () => { throw new Error("there is no challenge"); };
const chain = await client.auto({
  csr,
  email: "admin@example.com",
  termsOfServiceAgreed: true,
  challengeCreateFn: fail,
  challengeRemoveFn: fail,
});
fs.writeFileSync("chain.pem", chain);
