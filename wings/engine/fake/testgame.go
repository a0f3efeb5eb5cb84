package fake

import (
	"slices"
	"strconv"
	"strings"
)

// TestGame is dockertest/game.sh in Go: the same words, the same lines, the same codes. It is what
// enginetest runs on both engines, and a ready game for other tests.
func TestGame(p *Process) int {
	argv := append(slices.Clone(p.Spec.Command), "", "", "")
	number, _ := strconv.Atoi(argv[2])
	switch argv[1] {
	case "lines":
		for i := range number {
			p.Printf("line %d", i+1)
		}
		return 0
	case "both":
		for i := range number {
			p.Printf("out %d", i+1)
			p.Printf("err %d", i+1)
		}
		return 0
	case "long":
		p.Println(strings.Repeat("x", number))
		p.Println("after")
		return 0
	case "exit":
		return number
	case "echo":
		return echo(p)
	case "polite":
		signals := p.Trap()
		p.Println("ready")
		for {
			select {
			case <-p.Done():
				return codeKilled
			case s := <-signals:
				if s == "SIGTERM" {
					p.Println("bye")
					return 0
				}
			}
		}
	case "stubborn":
		p.Trap()
		p.Println("ready")
		<-p.Done()
		return codeKilled
	case "burn":
		p.SetLoad(Load{CPUMillicores: 1000, MemoryBytes: 4 << 20})
		p.Println("ready")
		<-p.Done()
		return codeKilled
	case "hog":
		p.Println("ready")
		p.OOM()
		return codeKilled
	default:
		p.Printf("what is %s?", argv[1])
		return 64
	}
}

func echo(p *Process) int {
	p.Println("ready")
	for {
		select {
		case <-p.Done():
			return codeKilled
		case line := <-p.Stdin():
			switch line {
			case "stop":
				p.Println("bye")
				return 0
			case "env":
				p.Println("GREETING=" + p.Spec.Env["GREETING"])
			case "id":
				p.Printf("%d:%d", p.Spec.UID, p.Spec.GID)
			default:
				p.Println("got " + line)
			}
		}
	}
}
