import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import org.bouncycastle.asn1.DERPrintableString;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.x500.X500NameBuilder;
import org.bouncycastle.asn1.x500.style.BCStyle;
import org.bouncycastle.asn1.x509.Extension;
import org.bouncycastle.asn1.x509.ExtensionsGenerator;
import org.bouncycastle.asn1.x509.GeneralName;
import org.bouncycastle.asn1.x509.GeneralNames;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.jcajce.JcaPKCS10CertificationRequestBuilder;

/** Write CSRs with BouncyCastle: `java GenerateCsrs.java FOLDER`. */
class GenerateCsrs {
    public static void main(String[] arguments) throws Exception {
        Path folder = Path.of(arguments[0]);
        write(folder.resolve("ec.csr"), "EC", 256, "SHA256withECDSA", false);
        write(folder.resolve("rsa.csr"), "RSA", 2048, "SHA256withRSA", false);
        write(folder.resolve("no-attributes.csr"), "EC", 256, "SHA256withECDSA", true);
    }

    static void write(Path path, String algorithm, int size, String signature, boolean bare) throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance(algorithm);
        generator.initialize(size);
        KeyPair pair = generator.generateKeyPair();
        X500NameBuilder subject = new X500NameBuilder(BCStyle.INSTANCE);
        subject.addRDN(BCStyle.CN, new DERPrintableString("*.bc.example.com"));
        var builder = new JcaPKCS10CertificationRequestBuilder(subject.build(), pair.getPublic());
        builder.setLeaveOffEmptyAttributes(true);
        if (!bare) {
            GeneralName[] names = {new GeneralName(GeneralName.dNSName, "*.bc.example.com")};
            ExtensionsGenerator extensions = new ExtensionsGenerator();
            extensions.addExtension(Extension.subjectAlternativeName, false, new GeneralNames(names));
            builder.addAttribute(PKCSObjectIdentifiers.pkcs_9_at_extensionRequest, extensions.generate());
        }
        var signer = new JcaContentSignerBuilder(signature).build(pair.getPrivate());
        Files.write(path, builder.build(signer).getEncoded());
    }
}
