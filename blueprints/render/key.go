package render

import (
	"fmt"
	"strconv"
	"strings"
)

// step is one part of a path: a key, an index, or in XML a child chosen by an attribute.
type step struct {
	key   string
	index int    // ≥ 0: an index; key is empty. −1: a key
	attr  string // XML: [@attr='value']
	value string
}

// parsePath reads "a.b[0].c". A backslash takes the next character as it is ("a\.b" is one key).
// selectors also allows [@name='value'] as XML needs it.
func parsePath(key string, selectors bool) ([]step, error) {
	var steps []step
	var name strings.Builder
	started := false // a key is being read
	flush := func() {
		if started {
			steps = append(steps, step{key: name.String(), index: -1})
		}
		name.Reset()
		started = false
	}
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '\\' && i+1 < len(key):
			i++
			name.WriteByte(key[i])
			started = true
		case c == '.':
			if !started && (i == 0 || key[i-1] != ']') {
				return nil, fmt.Errorf("path %q has an empty part at character %d", key, i+1)
			}
			flush()
			if i+1 == len(key) {
				return nil, fmt.Errorf("path %q ends with a dot", key)
			}
		case c == '[':
			flush()
			end := strings.IndexByte(key[i:], ']')
			if end < 0 {
				return nil, fmt.Errorf("path %q has [ without ]", key)
			}
			one, err := parseBracket(key[i+1:i+end], selectors)
			if err != nil {
				return nil, fmt.Errorf("path %q: %w", key, err)
			}
			steps = append(steps, one)
			i += end
			if i+1 < len(key) && key[i+1] != '.' && key[i+1] != '[' {
				return nil, fmt.Errorf("path %q needs a dot after ]", key)
			}
		default:
			name.WriteByte(c)
			started = true
		}
	}
	flush()
	if len(steps) == 0 {
		return nil, fmt.Errorf("path is empty")
	}
	if len(steps) > maxDepth {
		return nil, fmt.Errorf("path %q has more than %d parts", key, maxDepth)
	}
	return steps, nil
}

func parseBracket(inside string, selectors bool) (step, error) {
	if selectors && strings.HasPrefix(inside, "@") {
		name, quoted, ok := strings.Cut(inside[1:], "=")
		if !ok || name == "" || len(quoted) < 2 || (quoted[0] != '\'' && quoted[0] != '"') || quoted[len(quoted)-1] != quoted[0] {
			return step{}, fmt.Errorf("[%s] is not [@name='value']", inside)
		}
		return step{index: -1, attr: name, value: quoted[1 : len(quoted)-1]}, nil
	}
	n, err := strconv.Atoi(inside)
	if err != nil || n < 0 || n > maxIndex || strconv.Itoa(n) != inside {
		return step{}, fmt.Errorf("[%s] is not an index", inside)
	}
	return step{index: n}, nil
}

// pathString is the steps as an author would write them, for messages.
func pathString(steps []step) string {
	var b strings.Builder
	for i, s := range steps {
		switch {
		case s.attr != "":
			fmt.Fprintf(&b, "[@%s='%s']", s.attr, s.value)
		case s.index >= 0:
			fmt.Fprintf(&b, "[%d]", s.index)
		default:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(strings.NewReplacer(`\`, `\\`, ".", `\.`, "[", `\[`).Replace(s.key))
		}
	}
	return b.String()
}
