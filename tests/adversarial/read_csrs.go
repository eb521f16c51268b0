// Read CSRs with Go's crypto/x509: `go run read_csrs.go FOLDER` prints a JSON object for each file that it accepts.
package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

type reading struct {
	File      string
	Subject   [][2]string
	Names     []string
	PublicKey []byte
}

func read(path string) (*reading, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	request, err := x509.ParseCertificateRequest(data)
	if err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, err
	}
	result := &reading{File: filepath.Base(path), Subject: [][2]string{}, Names: []string{}}
	for _, attribute := range request.Subject.Names {
		result.Subject = append(result.Subject, [2]string{attribute.Type.String(), fmt.Sprint(attribute.Value)})
	}
	for _, name := range request.DNSNames {
		result.Names = append(result.Names, "dns:"+name)
	}
	for _, address := range request.IPAddresses {
		result.Names = append(result.Names, "ip:"+address.String())
	}
	for _, address := range request.EmailAddresses {
		result.Names = append(result.Names, "email:"+address)
	}
	for _, uri := range request.URIs {
		result.Names = append(result.Names, "uri:"+uri.String())
	}
	result.PublicKey, err = x509.MarshalPKIXPublicKey(request.PublicKey)
	return result, err
}

func main() {
	files, err := filepath.Glob(filepath.Join(os.Args[1], "*"))
	if err != nil {
		panic(err)
	}
	for _, path := range files {
		if result, err := read(path); err == nil {
			line, err := json.Marshal(result)
			if err != nil {
				panic(err)
			}
			fmt.Println(string(line))
		}
	}
}
