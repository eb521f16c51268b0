// Verifies every case of a folder with Node: a client and a server in this process make a TLS 1.3 handshake, and one end
// sends the case's certificate. Prints a line for each case: "node", the case, "ok" or the error.
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import tls from 'node:tls';

const [directory, peer] = process.argv.slice(2);
const read = (folder, ...names) => names.map(name => readFileSync(join(folder, `${name}.pem`)));

/** Returns the result of the end that verifies the case's certificate. */
function handshake(folder, peerFolder, isServer, host) {
  const [cert, key, peerRoot] = [...read(folder, 'bundle', 'key'), ...read(peerFolder, 'root')];
  const [peerCert, peerKey, root] = [...read(peerFolder, 'bundle', 'key'), ...read(folder, 'root')];
  const [senderOptions, verifierOptions] = [{cert, key, ca: peerRoot}, {cert: peerCert, key: peerKey, ca: root}];
  const common = {minVersion: 'TLSv1.3', rejectUnauthorized: false};
  return new Promise(resolve => {
    const server = tls.createServer({...common, requestCert: true, ...(isServer ? senderOptions : verifierOptions)}, socket => {
      socket.on('error', () => {});
      socket.end('x');
      if (!isServer) done(socket.authorizationError);
    });
    const done = error => {
      server.close();
      resolve(error ? `${error.code ?? error} ${error.message ?? ''}` : 'ok');
    };
    server.on('tlsClientError', done);
    server.listen(0, '127.0.0.1', () => {
      const client = tls.connect({
        ...common, ...(isServer ? verifierOptions : senderOptions), port: server.address().port, host: '127.0.0.1', servername: host,
      });
      client.on('secureConnect', () => isServer && done(client.authorizationError));
      client.on('data', () => {});
      client.on('error', isServer ? done : () => {});
    });
  });
}

for (const line of readFileSync(join(directory, 'cases.tsv'), 'utf8').trimEnd().split('\n')) {
  const [name, purpose, host] = line.split('\t');
  let result;
  try {
    result = await handshake(join(directory, name), peer, purpose === 'server', host);
  } catch (error) {
    result = String(error);
  }
  console.log(`node\t${name}\t${result.replace(/\s+/g, ' ').trim()}`);
}
