// Command sseflow-peer is what is measured beside sseflow: the reverse proxy of Go's own library, as people put it in
// front of event streams, with or without a filter that drops their comments. It says on standard error on which port
// it listens.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
)

func main() {
	upstream := flag.String("upstream", "", "URL of the upstream")
	filter := flag.String("filter", "", "drop the comments of event streams, and write by lines or by events")
	ca := flag.String("ca", "", "trust these authorities for the upstream")
	cert := flag.String("cert", "", "certificate, to speak TLS to clients")
	key := flag.String("key", "", "its private key")
	flag.Parse()
	if err := serve(*upstream, *filter, *ca, *cert, *key); err != nil {
		log.Fatal(err)
	}
}

func serve(upstream, filter, ca, cert, key string) error {
	target, err := url.Parse(upstream)
	if err != nil {
		return err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 8192, DisableCompression: true}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = transport
	proxy.FlushInterval = -1
	if filter != "" {
		proxy.ModifyResponse = func(answer *http.Response) error {
			dropComments(answer, filter == "events")
			return nil
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: proxy}
	if cert != "" {
		return server.ServeTLS(listener, cert, key)
	}
	return server.Serve(listener)
}

func dropComments(answer *http.Response, byEvent bool) {
	if strings.HasPrefix(answer.Header.Get("Content-Type"), "text/event-stream") {
		answer.Body = filtered(answer.Body, byEvent)
		answer.Header.Del("Content-Length")
		answer.ContentLength = -1
	}
}
