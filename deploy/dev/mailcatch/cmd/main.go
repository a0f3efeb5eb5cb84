// Command mailcatch runs the mail catcher until its standard input ends, and prints where it listens:
// one line with the SMTP address, one with the URL of its HTTP side.
package main

import (
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
	s, err := mailcatch.Start()
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
