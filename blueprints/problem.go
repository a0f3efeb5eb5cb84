package blueprints

import (
	"fmt"
	"sort"
	"strings"
)

// Problem is one fault of a blueprint, where it is and what to do about it.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1; 0: the file as a whole
	Column  int    `json:"column"` // from 1, in characters
	Path    string `json:"path"`   // e.g. "ports[0].protocol"; empty: the file as a whole
	Message string `json:"message"`
}

// String is "blueprint.yaml:12:5: ports[0].protocol: \"tpc\" is none of tcp, udp, both".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems are all faults that were found, by place. It is the error of Parse, Validate and Load.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// err is p in the order of the file as an error, or nil when there is no fault.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	sort.SliceStable(p, func(i, j int) bool {
		if p[i].Line != p[j].Line {
			return p[i].Line < p[j].Line
		}
		return p[i].Column < p[j].Column
	})
	if len(p) > MaxProblems {
		return p[:MaxProblems]
	}
	return p
}

type position struct{ line, column int }

// positions says where each path of a file stands.
type positions map[string]position

// find returns where path is, or the nearest thing above it that is in the file.
func (p positions) find(path string) position {
	for {
		if at, ok := p[path]; ok {
			return at
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return p[""]
		}
		path = path[:cut]
	}
}
