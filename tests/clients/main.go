// The client that openapi-generator makes for Go, used: URL, API key, good request, bad request.
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"

	certlet "example.org/certlet"
)

type told struct {
	Certificate string   `json:"certificate"`
	NotAfter    int64    `json:"not_after"`
	Refused     refused  `json:"refused"`
	Forbidden   refused  `json:"forbidden"`
	Root        string   `json:"root"`
	Profiles    []string `json:"profiles"`
	Batch       []string `json:"batch"`
	Crl         string   `json:"crl"`
}

type refused struct {
	Status int32    `json:"status"`
	Code   string   `json:"code"`
	Fields []string `json:"fields"`
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func caller(key string) context.Context {
	keys := map[string]certlet.APIKey{"apiKey": {Key: key}}
	return context.WithValue(context.Background(), certlet.ContextAPIKeys, keys)
}

func refusal(client *certlet.APIClient, key, csr string) refused {
	_, _, err := client.SignAPI.Sign(caller(key)).SignRequest(*certlet.NewSignRequest(csr)).Execute()
	var failed *certlet.GenericOpenAPIError
	if !errors.As(err, &failed) {
		panic(err)
	}
	problem := failed.Model().(certlet.Problem)
	fields := []string{}
	for _, each := range problem.Errors {
		fields = append(fields, each.Field)
	}
	return refused{problem.Status, problem.Code, fields}
}

func main() {
	url, key := os.Args[1], os.Args[2]
	good, bad := string(must(os.ReadFile(os.Args[3]))), string(must(os.ReadFile(os.Args[4])))
	configuration := certlet.NewConfiguration()
	configuration.Servers = certlet.ServerConfigurations{{URL: url}}
	client := certlet.NewAPIClient(configuration)

	order := certlet.NewSignRequest(good)
	order.SetProfile(certlet.CLIENT)
	signed, _, err := client.SignAPI.Sign(caller(key)).SignRequest(*order).Execute()
	must(signed, err)
	authority, _, err := client.AuthorityAPI.Ca(context.Background()).Execute()
	must(authority, err)
	offered, _, err := client.AuthorityAPI.Profiles(context.Background()).Execute()
	must(offered, err)
	items := certlet.NewBatchRequest([]certlet.BatchItem{*certlet.NewBatchItem(good), *certlet.NewBatchItem(bad)})
	batch, _, err := client.SignAPI.SignBatch(caller(key)).BatchRequest(*items).Execute()
	must(batch, err)
	crl, _, err := client.AuthorityAPI.CaCrl(context.Background()).Execute()
	list := must(io.ReadAll(must(crl, err)))

	names := []string{}
	for _, each := range offered.Profiles {
		names = append(names, string(each.Name))
	}
	must(0, json.NewEncoder(os.Stdout).Encode(told{
		Certificate: signed.CrtPem,
		NotAfter:    signed.NotAfter.Unix(),
		Refused:     refusal(client, key, bad),
		Forbidden:   refusal(client, strings.Repeat("x", 40), good),
		Root:        authority.RootPem,
		Profiles:    names,
		Batch:       []string{batch.Results[0].Certificate.CrtPem, batch.Results[1].Problem.Code},
		Crl:         hex.EncodeToString(list),
	}))
}
