// Node judges every case of a folder by a TLS 1.3 handshake between two of its own, of which one is shown the
// certificate. Prints a line for each: "node", the case, "ok" or what is wrong.
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import tls from 'node:tls';

const [directory, reference] = process.argv.slice(2);
const read = (folder, ...names) => names.map(name => readFileSync(join(folder, `${name}.pem`)));

/** What the end that is shown the certificate says of it. */
function handshake(own, other, isServer, host) {
  const [cert, key, otherRoot] = [...read(own, 'bundle', 'key'), ...read(other, 'root')];
  const [otherCert, otherKey, root] = [...read(other, 'bundle', 'key'), ...read(own, 'root')];
  const [shown, judging] = [{cert, key, ca: otherRoot}, {cert: otherCert, key: otherKey, ca: root}];
  const common = {minVersion: 'TLSv1.3', rejectUnauthorized: false};
  return new Promise(resolve => {
    const server = tls.createServer({...common, requestCert: true, ...(isServer ? shown : judging)}, socket => {
      socket.on('error', () => {});
      socket.end('x');
      if (!isServer) done(socket.authorizationError);
    });
    const done = fault => {
      server.close();
      resolve(fault ? `${fault.code ?? fault} ${fault.message ?? ''}` : 'ok');
    };
    server.on('tlsClientError', done);
    server.listen(0, '127.0.0.1', () => {
      const client = tls.connect({
        ...common, ...(isServer ? judging : shown), port: server.address().port, host: '127.0.0.1', servername: host,
      });
      client.on('secureConnect', () => isServer && done(client.authorizationError));
      client.on('data', () => {});
      client.on('error', isServer ? done : () => {});
    });
  });
}

for (const line of readFileSync(join(directory, 'cases.tsv'), 'utf8').trimEnd().split('\n')) {
  const [name, purpose, host] = line.split('\t');
  let verdict;
  try {
    verdict = await handshake(join(directory, name), reference, purpose === 'server', host);
  } catch (error) {
    verdict = String(error);
  }
  console.log(`node\t${name}\t${verdict.replace(/\s+/g, ' ').trim()}`);
}
