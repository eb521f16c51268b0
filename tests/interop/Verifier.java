// Verifies every case of a folder with Java twice: by CertPathValidator, and by a TLS handshake between a client and a server
// in this process, of which one sends the case's certificate. Prints lines: "java" or "java-tls", the case, "ok" or the error.

import java.io.IOException;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.CertPathValidator;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.PKIXParameters;
import java.security.cert.TrustAnchor;
import java.security.cert.X509CertSelector;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

class Verifier {
    static final ExecutorService THREAD = Executors.newCachedThreadPool();

    static List<X509Certificate> load(Path file) throws Exception {
        try (var stream = Files.newInputStream(file)) {
            return CertificateFactory.getInstance("X.509").generateCertificates(stream).stream()
                .map(X509Certificate.class::cast).toList();
        }
    }

    static void validate(Path folder, String purpose, String host) throws Exception {
        var parameters = new PKIXParameters(Set.of(new TrustAnchor(load(folder.resolve("root.pem")).get(0), null)));
        parameters.setRevocationEnabled(false);
        var selector = new X509CertSelector();
        if (purpose.equals("server")) {
            selector.setExtendedKeyUsage(Set.of("1.3.6.1.5.5.7.3.1"));
            selector.addSubjectAlternativeName(2, host);
        } else {
            selector.setExtendedKeyUsage(Set.of("1.3.6.1.5.5.7.3.2"));
        }
        parameters.setTargetCertConstraints(selector);
        var path = CertificateFactory.getInstance("X.509").generateCertPath(load(folder.resolve("bundle.pem")));
        CertPathValidator.getInstance("PKIX").validate(path, parameters);
    }

    static KeyManager[] identity(Path folder) throws Exception {
        var chain = load(folder.resolve("bundle.pem")).toArray(Certificate[]::new);
        var text = Files.readString(folder.resolve("key.pem")).replaceAll("-----[A-Z ]+-----|\\s", "");
        PrivateKey key = KeyFactory.getInstance(chain[0].getPublicKey().getAlgorithm())
            .generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(text)));
        var store = KeyStore.getInstance("JKS");
        store.load(null, null);
        store.setKeyEntry("key", key, new char[0], chain);
        var factory = KeyManagerFactory.getInstance("PKIX");
        factory.init(store, new char[0]);
        return factory.getKeyManagers();
    }

    static SSLContext context(Path identityFolder, Path trustFolder) throws Exception {
        var store = KeyStore.getInstance("JKS");
        store.load(null, null);
        store.setCertificateEntry("root", load(trustFolder.resolve("root.pem")).get(0));
        var factory = TrustManagerFactory.getInstance("PKIX");
        factory.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(identity(identityFolder), factory.getTrustManagers(), null);
        return context;
    }

    /** Runs one end of a connection until it closes, because a TLS 1.3 server verifies its client after the client's handshake. */
    static Void exchange(SSLSocket socket) throws IOException {
        try (socket) {
            socket.setSoTimeout(10_000);
            socket.startHandshake();
            socket.getOutputStream().write(1);
            socket.getInputStream().read();
        }
        return null;
    }

    static void handshake(Path folder, Path peer, String purpose, String host) throws Exception {
        boolean isServer = purpose.equals("server");
        var serverContext = isServer ? context(folder, peer) : context(peer, folder);
        var clientContext = isServer ? context(peer, folder) : context(folder, peer);
        try (var listener = (SSLServerSocket) serverContext.getServerSocketFactory()
                .createServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            listener.setNeedClientAuth(true);
            Future<Void> server = THREAD.submit(() -> exchange((SSLSocket) listener.accept()));
            var raw = new Socket(listener.getInetAddress(), listener.getLocalPort());
            var socket = (SSLSocket) clientContext.getSocketFactory().createSocket(raw, host, listener.getLocalPort(), true);
            SSLParameters parameters = socket.getSSLParameters();
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            socket.setSSLParameters(parameters);
            Future<Void> client = THREAD.submit(() -> exchange(socket));
            Future<Void> verifier = isServer ? client : server;
            Future<Void> sender = isServer ? server : client;
            try {
                verifier.get();
            } finally {
                try {
                    sender.get();
                } catch (Exception expected) {
                    // The verifier reports the reason.
                }
            }
        }
    }

    interface Check {
        void run() throws Exception;
    }

    static String result(Check check) {
        try {
            check.run();
            return "ok";
        } catch (Exception error) {
            Throwable cause = error;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            return cause.toString().replaceAll("\\s+", " ");
        }
    }

    public static void main(String[] arguments) throws Exception {
        Path directory = Path.of(arguments[0]), peer = Path.of(arguments[1]);
        Files.readAllLines(directory.resolve("cases.tsv")).parallelStream().forEach(line -> {
            String[] fields = line.split("\t");
            Path folder = directory.resolve(fields[0]);
            String path = result(() -> validate(folder, fields[1], fields[2]));
            String tls = result(() -> handshake(folder, peer, fields[1], fields[2]));
            System.out.printf("java\t%s\t%s%njava-tls\t%s\t%s%n", fields[0], path, fields[0], tls);
        });
        THREAD.shutdown();
    }
}
