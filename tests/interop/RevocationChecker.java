// Validates a certificate path with revocation on, by OCSP only: BUNDLE ROOT [RESPONDER-URL]. Prints "ok" or the error.
// With a URL, it asks there about the end entity; without one, about each certificate, at the URL in it.

import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.CertPathValidator;
import java.security.cert.CertificateFactory;
import java.security.cert.PKIXParameters;
import java.security.cert.PKIXRevocationChecker;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.List;
import java.util.Set;

class RevocationChecker {
    static List<X509Certificate> load(String file) throws Exception {
        try (var stream = Files.newInputStream(Path.of(file))) {
            return CertificateFactory.getInstance("X.509").generateCertificates(stream).stream()
                .map(X509Certificate.class::cast).toList();
        }
    }

    public static void main(String[] arguments) throws Exception {
        var validator = CertPathValidator.getInstance("PKIX");
        var checker = (PKIXRevocationChecker) validator.getRevocationChecker();
        checker.setOptions(Set.of(PKIXRevocationChecker.Option.NO_FALLBACK));
        if (arguments.length > 2) {
            checker.setOcspResponder(URI.create(arguments[2]));
            checker.setOptions(Set.of(PKIXRevocationChecker.Option.NO_FALLBACK, PKIXRevocationChecker.Option.ONLY_END_ENTITY));
        }
        var parameters = new PKIXParameters(Set.of(new TrustAnchor(load(arguments[1]).get(0), null)));
        parameters.addCertPathChecker(checker);
        try {
            validator.validate(CertificateFactory.getInstance("X.509").generateCertPath(load(arguments[0])), parameters);
            System.out.println("ok");
        } catch (Exception error) {
            System.out.println(error.getMessage());
        }
    }
}
