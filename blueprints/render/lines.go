package render

import (
	"bytes"
	"errors"
	"strings"

	"github.com/mambahost/mamba/wings/wire"
)

// line is text[start:end], without its line end, which goes on to next.
type line struct{ start, end, next int }

func (l line) of(text []byte) string { return string(text[l.start:l.end]) }

// splitLines cuts at \n and \r\n. A last line end makes no empty line after it.
func splitLines(text []byte) []line {
	var lines []line
	for start := 0; start < len(text); {
		next := len(text)
		end := next
		if i := bytes.IndexByte(text[start:], '\n'); i >= 0 {
			end, next = start+i, start+i+1
			if end > start && text[end-1] == '\r' {
				end--
			}
		}
		lines = append(lines, line{start, end, next})
		start = next
	}
	return lines
}

// lineEnd is the file's own: that of its first line, \n in a new file.
func lineEnd(text []byte) string {
	if i := bytes.IndexByte(text, '\n'); i > 0 && text[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// insertLine puts content as a line of its own at offset, which is the start of a line or the end of
// the text, and keeps whether the text ends with a line end.
func insertLine(text []byte, offset int, content string) []byte {
	eol := lineEnd(text)
	if offset == len(text) && len(text) > 0 && text[len(text)-1] != '\n' {
		return splice(text, offset, offset, eol+content)
	}
	return splice(text, offset, offset, content+eol)
}

func checkLineKey(key string) error {
	if key == "" || strings.ContainsAny(key, "\r\n\x00") {
		return errors.New("a key must be one line and not empty")
	}
	return nil
}

// checkOneLine refuses what the format has no way to write.
func checkOneLine(value string) error {
	if strings.ContainsAny(value, "\r\n\x00") {
		return errors.New("the value has more than one line, which this format cannot hold")
	}
	return nil
}

// applyText replaces each line that begins with the key by the value. Nothing is added when there is
// none: a line that is not there cannot be told from one that was removed.
func applyText(text []byte, edit wire.Edit) ([]byte, error) {
	if err := checkOneLine(edit.Value); err != nil {
		return nil, err
	}
	var changes patches
	for _, l := range splitLines(text) {
		if bytes.HasPrefix(text[l.start:l.end], []byte(edit.Key)) && l.of(text) != edit.Value {
			if err := changes.add(l.start, l.end, edit.Value); err != nil {
				return nil, err
			}
		}
	}
	return changes.apply(text), nil
}
