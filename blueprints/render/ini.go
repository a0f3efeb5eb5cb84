package render

import (
	"errors"
	"strings"

	"github.com/mambahost/mamba/wings/wire"
)

// iniLine is one line of an ini file. Comments and blank lines have neither header nor key.
type iniLine struct {
	line
	section string // that it is in, or that it opens
	header  bool
	key     string
	keyed   bool
	sepFrom int // end of the key
	valFrom int // start of the value
}

// checkINIKey accepts "key", "section.key" and "[any section].key".
func checkINIKey(key string) error {
	if err := checkLineKey(key); err != nil {
		return err
	}
	section, name := splitINIKey(key)
	if name == "" || strings.TrimSpace(name) != name || isAny(name[0], "[;#") || strings.ContainsAny(name, "=:") {
		return errors.New(`a key must be "key", "section.key" or "[any section].key"`)
	}
	if strings.ContainsAny(section, "[]") || strings.TrimSpace(section) != section {
		return errors.New("a section must not hold brackets or begin or end with a space")
	}
	return nil
}

func splitINIKey(key string) (section, name string) {
	if strings.HasPrefix(key, "[") {
		if section, name, ok := strings.Cut(key[1:], "]."); ok {
			return section, name
		}
	}
	if section, name, ok := strings.Cut(key, "."); ok {
		return section, name
	}
	return "", key
}

// applyINI sets every occurrence of the key in its section, or adds it after the section's last key.
func applyINI(text []byte, edit wire.Edit) ([]byte, error) {
	if err := checkOneLine(edit.Value); err != nil {
		return nil, err
	}
	section, name := splitINIKey(edit.Key)
	value := strings.Trim(edit.Value, " \t") // white space round a value is not part of it
	lines := parseINI(text)
	found := false
	var changes patches
	for _, l := range lines {
		if l.keyed && l.section == section && l.key == name {
			found = true
			if err := setINILine(&changes, text, l, value); err != nil {
				return nil, err
			}
		}
	}
	if found {
		return changes.apply(text), nil
	}
	return addINILine(text, lines, section, name, value), nil
}

func parseINI(text []byte) []iniLine {
	var all []iniLine
	section := ""
	for _, l := range splitLines(text) {
		one := iniLine{line: l}
		content := l.of(text)
		trimmed := strings.TrimSpace(content)
		switch {
		case trimmed == "" || isAny(trimmed[0], ";#"):
		case trimmed[0] == '[' && strings.Contains(trimmed, "]"):
			section = strings.TrimSpace(trimmed[1:strings.Index(trimmed, "]")])
			one.header = true
		default:
			one.split(content)
		}
		one.section = section
		all = append(all, one)
	}
	return all
}

func (l *iniLine) split(content string) {
	end := strings.IndexAny(content, "=:")
	after := end + 1
	if end < 0 {
		end, after = len(content), len(content)
	}
	l.keyed = true
	l.key = strings.TrimSpace(content[:end])
	l.sepFrom = l.start + len(strings.TrimRight(content[:end], " \t"))
	rest := content[after:]
	l.valFrom = l.start + after + len(rest) - len(strings.TrimLeft(rest, " \t"))
}

// setINILine replaces a value and keeps its quotes. A comment behind the value goes to a line of its
// own above: games disagree on whether it is a comment there.
func setINILine(changes *patches, text []byte, l iniLine, value string) error {
	sep := string(text[l.sepFrom:l.valFrom])
	old := strings.TrimRight(string(text[l.valFrom:l.end]), " \t")
	if !strings.ContainsAny(sep, "=:") {
		sep = "="
	} else if old == value {
		return nil
	}
	old, comment := splitINIComment(old)
	with := value
	if n := len(old); n >= 2 && isAny(old[0], `"'`) && old[n-1] == old[0] && strings.IndexByte(value, old[0]) < 0 {
		with = old[:1] + value + old[:1]
	}
	if comment != "" {
		if err := changes.add(l.start, l.start, comment+lineEnd(text)); err != nil {
			return err
		}
	} else if old == with && sep == string(text[l.sepFrom:l.valFrom]) {
		return nil
	}
	return changes.add(l.sepFrom, l.end, sep+with)
}

// splitINIComment cuts "value ; comment". A ";" within quotes or without a space before it is part
// of the value.
func splitINIComment(s string) (value, comment string) {
	from := 0
	if s != "" && isAny(s[0], `"'`) {
		if end := strings.IndexByte(s[1:], s[0]); end >= 0 {
			from = end + 2
		}
	}
	for i := from; i < len(s); i++ {
		if s[i] == ';' && (i == 0 || isAny(s[i-1], " \t")) {
			return strings.TrimRight(s[:i], " \t"), s[i:]
		}
	}
	return s, ""
}

func addINILine(text []byte, lines []iniLine, section, name, value string) []byte {
	content := name + iniSeparator(text, lines) + value
	at, indent := -1, ""
	known := section == ""
	headers := false
	for _, l := range lines {
		headers = headers || l.header
		if l.section != section {
			continue
		}
		if l.header {
			known, at = true, l.next
		}
		if l.keyed {
			at = l.next
			line := l.of(text)
			indent = line[:len(line)-len(strings.TrimLeft(line, " \t"))]
		}
	}
	switch {
	case !known:
		header := "[" + section + "]" + lineEnd(text) + content
		if len(text) > 0 {
			header = lineEnd(text) + header
		}
		return insertLine(text, len(text), header)
	case at >= 0:
		return insertLine(text, at, indent+content)
	case headers: // no key of the top part yet: before everything
		return insertLine(text, 0, content)
	}
	return insertLine(text, len(text), content)
}

// iniSeparator is the file's own: the most common one, of those the first.
func iniSeparator(text []byte, lines []iniLine) string {
	best, counts := "=", map[string]int{}
	for _, l := range lines {
		sep := string(text[l.sepFrom:l.valFrom])
		if !l.keyed || l.valFrom == l.end || !strings.ContainsAny(sep, "=:") {
			continue
		}
		if counts[sep]++; counts[sep] > counts[best] {
			best = sep
		}
	}
	return best
}
