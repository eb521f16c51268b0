// Asks about leaf.pem by OCSP with Go's x/crypto/ocsp, by POST to the URL in the argument. Prints the status or the error.
package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"

	"golang.org/x/crypto/ocsp"
)

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(0)
	}
}

func read(name string) *x509.Certificate {
	text, err := os.ReadFile(name)
	check(err)
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	check(err)
	return certificate
}

func main() {
	leaf, issuer := read("leaf.pem"), read("issuer.pem")
	request, err := ocsp.CreateRequest(leaf, issuer, nil)
	check(err)
	reply, err := http.Post(os.Args[1], "application/ocsp-request", bytes.NewReader(request))
	check(err)
	der, err := io.ReadAll(reply.Body)
	check(err)
	response, err := ocsp.ParseResponseForCert(der, leaf, issuer)
	check(err)
	fmt.Println(map[int]string{ocsp.Good: "good", ocsp.Revoked: "revoked", ocsp.Unknown: "unknown"}[response.Status])
}
