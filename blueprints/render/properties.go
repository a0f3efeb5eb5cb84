package render

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mambahost/mamba/wings/wire"
)

// property is one logical line of a Java properties file (java.util.Properties#load): a natural line
// and those that a backslash at its end joins to it.
type property struct {
	key        string // unescaped
	sepFrom    int    // end of the key
	valueFrom  int    // start of the value
	valueTo    int    // end of the value, before the line end
	next       int
	continuing bool // ends with a backslash that joins what follows
}

// applyProperties sets every occurrence of the key, so that it does not matter which one a game
// reads, or appends it.
func applyProperties(text []byte, edit wire.Edit) ([]byte, error) {
	all := parseProperties(text)
	found := false
	escaped := escapePropertyValue(edit.Value)
	var changes patches
	for _, p := range all {
		if p.key != edit.Key {
			continue
		}
		found = true
		if unescapeProperty(string(text[p.valueFrom:p.valueTo])) == edit.Value && !p.continuing {
			continue
		}
		sep := string(text[p.sepFrom:p.valueFrom])
		if !strings.ContainsAny(sep, "=:") && (sep == "" || p.valueFrom == p.valueTo || strings.IndexByte("=:", first(edit.Value)) >= 0) {
			sep = "="
		}
		if err := changes.add(p.sepFrom, p.valueTo, sep+escaped); err != nil {
			return nil, err
		}
	}
	if found {
		return changes.apply(text), nil
	}
	sep := "="
	for _, p := range all {
		if s := string(text[p.sepFrom:p.valueFrom]); strings.ContainsAny(s, "=:") && strings.Trim(s, "=: \t") == "" {
			sep = s
		}
	}
	if n := len(all); n > 0 && all[n-1].continuing {
		if text[len(text)-1] != '\n' {
			text = append(text, lineEnd(text)...)
		}
		text = append(text, lineEnd(text)...)
	}
	return insertLine(text, len(text), escapePropertyKey(edit.Key)+sep+escaped), nil
}

func first(s string) byte {
	if s == "" {
		return 'x'
	}
	return s[0]
}

func parseProperties(text []byte) []property {
	var all []property
	lines := splitLines(text)
	for i := 0; i < len(lines); i++ {
		trimmed := bytes.TrimLeft(text[lines[i].start:lines[i].end], " \t\f")
		if len(trimmed) == 0 || trimmed[0] == '#' || trimmed[0] == '!' {
			continue
		}
		p := property{valueTo: lines[i].end, next: lines[i].next}
		start := lines[i].end - len(trimmed)
		for endsOpen(text[lines[i].start:lines[i].end]) {
			if i+1 == len(lines) {
				p.continuing = true
				break
			}
			i++
			p.valueTo, p.next = lines[i].end, lines[i].next
		}
		p.split(text, start)
		all = append(all, p)
	}
	return all
}

// endsOpen reports whether a line ends with an odd number of backslashes.
func endsOpen(line []byte) bool {
	n := len(line) - len(bytes.TrimRight(line, `\`))
	return n%2 == 1
}

// split finds key, separator and value of a logical line that starts at start.
func (p *property) split(text []byte, start int) {
	i := start
	for i < p.valueTo && !isAny(text[i], "=: \t\f\r\n") {
		if text[i] == '\\' {
			i++
			if i < p.valueTo && text[i] == '\r' && i+1 < p.valueTo && text[i+1] == '\n' {
				i++
			}
		}
		i++
	}
	i = min(i, p.valueTo)
	p.key = unescapeProperty(string(text[start:i]))
	p.sepFrom = i
	i = skip(text, i, p.valueTo)
	if i < p.valueTo && isAny(text[i], "=:") {
		i = skip(text, i+1, p.valueTo)
	}
	p.valueFrom = i
}

func skip(text []byte, i, end int) int {
	for i < end && isAny(text[i], " \t\f") {
		i++
	}
	return i
}

func isAny(c byte, set string) bool { return strings.IndexByte(set, c) >= 0 }

func unescapeProperty(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	var units []uint16 // pending \uXXXX, which may be halves of a pair
	flush := func() {
		out.WriteString(string(utf16.Decode(units)))
		units = units[:0]
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			flush()
			if s[i] != '\\' {
				out.WriteByte(s[i])
			}
			continue
		}
		i++
		if s[i] == 'u' && i+4 < len(s) {
			var unit uint16
			if _, err := fmt.Sscanf(s[i+1:i+5], "%04x", &unit); err == nil {
				units = append(units, unit)
				i += 4
				continue
			}
		}
		flush()
		switch s[i] {
		case 't':
			out.WriteByte('\t')
		case 'n':
			out.WriteByte('\n')
		case 'r':
			out.WriteByte('\r')
		case 'f':
			out.WriteByte('\f')
		case '\r', '\n': // joined lines: the break and the next line's indentation are not there
			for i+1 < len(s) && isAny(s[i+1], " \t\f\n") {
				i++
			}
		default:
			out.WriteByte(s[i])
		}
	}
	flush()
	return out.String()
}

func escapePropertyValue(s string) string { return escapeProperty(s, "") }

// escapePropertyKey also escapes what would end a key or begin a comment.
func escapePropertyKey(s string) string { return escapeProperty(s, "=: #!") }

// escapeProperty writes ASCII only, as Java does: readers disagree on the encoding of the file, and
// all of them know \uXXXX.
func escapeProperty(s, special string) string {
	var out strings.Builder
	for i, r := range s {
		switch {
		case r == '\\':
			out.WriteString(`\\`)
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\r':
			out.WriteString(`\r`)
		case r == '\t':
			out.WriteString(`\t`)
		case r == '\f':
			out.WriteString(`\f`)
		case r == ' ' && i == 0, r < utf8.RuneSelf && isAny(byte(r), special):
			out.WriteByte('\\')
			out.WriteRune(r)
		case r < ' ' || r > '~':
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&out, `\u%04X`, unit)
			}
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}
