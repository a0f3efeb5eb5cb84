// Command mailcatch runs the mail catcher until its standard input ends, and prints where it listens:
// one line with the SMTP address, one with the URL of its HTTP side.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/mambahost/mamba/deploy/dev/mailcatch"
)

func main() {
	address := flag.String("http", "127.0.0.1:0", "host:port of the HTTP side; another port where this one is taken")
	flag.Parse()
	s, err := mailcatch.Start()
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", *address)
	if err != nil { // somebody has that port
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		log.Fatal(err)
	}
	web := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = web.Serve(l) }() // ends with the process
	fmt.Printf("%s\nhttp://%s\n", s.Addr, l.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = web.Close()
	_ = s.Close()
}
