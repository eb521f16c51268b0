// Registers, and requests a certificate with golang.org/x/crypto/acme; without names, revokes it:
// enroll DIRECTORY KEY_ID HMAC_KEY [NAME...]
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"golang.org/x/crypto/acme"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func accountKey() *ecdsa.PrivateKey {
	text, err := os.ReadFile("account.key")
	if errors.Is(err, os.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(err)
		der, err := x509.MarshalECPrivateKey(key)
		check(err)
		text = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
		check(os.WriteFile("account.key", text, 0o600))
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	check(err)
	return key
}

func main() {
	names := os.Args[4:]
	ctx := context.Background()
	client := &acme.Client{Key: accountKey(), DirectoryURL: os.Args[1]}
	hmacKey, err := base64.RawURLEncoding.DecodeString(os.Args[3])
	check(err)
	account := &acme.Account{
		Contact:                []string{"mailto:admin@example.com"},
		ExternalAccountBinding: &acme.ExternalAccountBinding{KID: os.Args[2], Key: hmacKey},
	}
	if _, err = client.Register(ctx, account, acme.AcceptTOS); !errors.Is(err, acme.ErrAccountAlreadyExists) {
		check(err)
	}
	if len(names) == 0 {
		text, err := os.ReadFile("chain.pem")
		check(err)
		block, _ := pem.Decode(text)
		check(client.RevokeCert(ctx, nil, block.Bytes, acme.CRLReasonSuperseded))
		return
	}
	order, err := client.AuthorizeOrder(ctx, acme.DomainIDs(names...))
	check(err)
	order, err = client.WaitOrder(ctx, order.URI)
	check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	check(err)
	chain, _, err := client.CreateOrderCert(ctx, order.FinalizeURL, csr, true)
	check(err)
	file, err := os.Create("chain.pem")
	check(err)
	for _, der := range chain {
		check(pem.Encode(file, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	check(file.Close())
}
