// Verifies every case of a folder with Go's crypto/x509. Prints a line for each case: "go", the case, "ok" or the error.
package main

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func read(folder, name string) *x509.Certificate {
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		panic(err)
	}
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		panic(err)
	}
	return certificate
}

func verify(folder, purpose, host string) (result string) {
	defer func() {
		if err := recover(); err != nil {
			result = fmt.Sprint(err)
		}
	}()
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	options.Roots.AddCert(read(folder, "root.pem"))
	options.Intermediates.AddCert(read(folder, "chain.pem"))
	options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if purpose == "server" {
		options.KeyUsages[0], options.DNSName = x509.ExtKeyUsageServerAuth, host
	}
	if _, err := read(folder, "leaf.pem").Verify(options); err != nil {
		return err.Error()
	}
	return "ok"
}

func main() {
	cases, err := os.Open(filepath.Join(os.Args[1], "cases.tsv"))
	if err != nil {
		panic(err)
	}
	for lines := bufio.NewScanner(cases); lines.Scan(); {
		fields := strings.Split(lines.Text(), "\t")
		result := verify(filepath.Join(os.Args[1], fields[0]), fields[1], fields[2])
		fmt.Printf("go\t%s\t%s\n", fields[0], strings.Join(strings.Fields(result), " "))
	}
}
