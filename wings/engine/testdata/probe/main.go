// Command probe stands for wings in the builtin image of the engine's tests.
//
//	probe show ARG…        print the arguments, the user and the folder
//	probe serve ADDRESS    say "hello" to whoever connects
//	probe ask ADDRESS…     connect to each and print what is said, or "refused"
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	switch os.Args[1] {
	case "show":
		wd, _ := os.Getwd()
		fmt.Println(os.Args[2:], os.Getuid(), os.Getgid(), wd)
	case "serve":
		serve(os.Args[2])
	case "ask":
		for _, address := range os.Args[2:] {
			fmt.Println(ask(address))
		}
	default:
		os.Exit(64)
	}
}

func serve(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("up")
	for {
		conn, err := l.Accept()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_, _ = io.WriteString(conn, "hello")
		_ = conn.Close()
	}
}

func ask(address string) string {
	conn, err := net.DialTimeout("tcp", address, 3*time.Second)
	if err != nil {
		return "refused"
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	raw, _ := io.ReadAll(conn)
	return strings.TrimSpace(string(raw))
}
