// Writes CSRs as Go programs do: `go run generate_csrs.go FOLDER`. Uses only the standard library.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"path/filepath"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func write(name string, template *x509.CertificateRequest, key crypto.Signer) {
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	check(err)
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	check(os.WriteFile(filepath.Join(os.Args[1], name), block, 0o600))
}

func extension(oid asn1.ObjectIdentifier, critical bool, value interface{}) pkix.Extension {
	der, err := asn1.Marshal(value)
	check(err)
	return pkix.Extension{Id: oid, Critical: critical, Value: der}
}

// Returns a CSR as from cert-manager's GenerateCSR: with its default usages, digital signature and key
// encipherment, for any key (pkg/util/pki/csr.go).
func certManager() *x509.CertificateRequest {
	usage := asn1.BitString{Bytes: []byte{0xa0}, BitLength: 3}
	serverAuth := []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}}
	return &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "svc.example.com", Organization: []string{"jetstack"}},
		DNSNames: []string{"svc.example.com", "svc.ns.svc.cluster.local"},
		ExtraExtensions: []pkix.Extension{
			extension(asn1.ObjectIdentifier{2, 5, 29, 15}, true, usage),
			extension(asn1.ObjectIdentifier{2, 5, 29, 37}, false, serverAuth),
		},
	}
}

func main() {
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	_, ed25519Key, err := ed25519.GenerateKey(rand.Reader)
	check(err)
	spiffeID, err := url.Parse("spiffe://example.com/go")
	check(err)

	server := &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "go.example.com"},
		DNSNames:    []string{"go.example.com", "*.go.example.com"},
		IPAddresses: []net.IP{net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::7")},
	}
	write("go-ecdsa.csr", server, ecdsaKey)
	write("go-rsa.csr", server, rsaKey)
	write("go-ed25519.csr", server, ed25519Key)
	write("go-client.csr", &x509.CertificateRequest{
		Subject:        pkix.Name{CommonName: "Gopher"},
		EmailAddresses: []string{"gopher@example.com"},
		URIs:           []*url.URL{spiffeID},
	}, ecdsaKey)
	write("cert-manager-ecdsa.csr", certManager(), ecdsaKey)
	write("cert-manager-rsa.csr", certManager(), rsaKey)
}
