// Judges certificates by Node's own X509Certificate, whose OpenSSL is not the one that signed them, and by a
// TLS 1.3 handshake. stdin: [{leaf, intermediates, root, key, kind}], PEM all; stdout: what each is.
import {X509Certificate, createPrivateKey, createPublicKey} from 'node:crypto';
import {once} from 'node:events';
import tls from 'node:tls';

function judge({leaf, intermediates, root, key, kind}) {
  const [certificate, issuer, anchor] = [leaf, intermediates, root].map(pem => new X509Certificate(pem));
  const own = createPublicKey(createPrivateKey(key)).export({type: 'spki', format: 'der'});
  return {
    kind: certificate.publicKey.asymmetricKeyType,
    key: certificate.publicKey.export({type: 'spki', format: 'der'}).equals(own),
    host: certificate.checkHost('a.example.com') === 'a.example.com',
    leaf: certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey),
    issuer: issuer.checkIssued(anchor) && issuer.verify(anchor.publicKey) && issuer.ca,
    root: anchor.verify(anchor.publicKey) && anchor.ca,
    usage: certificate.keyUsage,
  };
}

async function handshake({leaf, intermediates, root, key}) {
  const server = tls.createServer({cert: leaf + intermediates, key, minVersion: 'TLSv1.3'}, each => each.end('x'));
  server.on('tlsClientError', () => {});
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    const client = tls.connect({
      port: server.address().port, host: '127.0.0.1', servername: 'a.example.com', ca: root, minVersion: 'TLSv1.3',
    });
    client.on('data', () => {});
    await once(client, 'secureConnect');
    const protocol = client.getProtocol();
    client.destroy();
    return protocol;
  } catch (error) {
    return error.code;
  } finally {
    server.close();
  }
}

let input = '';
for await (const chunk of process.stdin) input += chunk;
const judged = [];
for (const each of JSON.parse(input)) judged.push({...judge(each), tls: await handshake(each)});
console.log(JSON.stringify(judged));
