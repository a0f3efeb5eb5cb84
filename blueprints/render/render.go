// Package render edits config files of games without disturbing them.
//
// It owns the seven formats that games keep their settings in, and the meaning of a wire.Edit in
// each. It refuses to touch a disk: bytes come in, bytes go out.
//
// Its one invariant: what an edit does not name stays as it is, byte for byte: comments, order,
// unknown keys, indentation, line ends, the byte order mark and the missing last line end. Every
// edit is checked after it was made: a file that would not say exactly what was asked for is not
// returned, an error is.
package render

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/mambahost/mamba/wings/wire"
)

// Limits of a file and of what is done to it.
const (
	MaxBytes = 1 << 20  // a file, before and after
	MaxEdits = 1024     // edits of one file
	MaxWork  = 32 << 20 // bytes of the file times edits: each edit reads it anew
	maxDepth = 64       // nesting of a file and parts of a path
	maxIndex = 10_000   // [n] in a path
)

// Errors that callers decide on. Both are faults of the file or of the edit, never of the moment.
var (
	ErrTooLarge = errors.New("the config file is too large")
	ErrFormat   = errors.New("the config format is not known")
)

// Error says which edit of which kind of file could not be made, and where.
type Error struct {
	Format string
	Line   int    // from 1; 0: not known
	Key    string // the edit; empty: the file cannot be read at all
	Err    error
}

func (e *Error) Error() string {
	where := e.Format
	if e.Line > 0 {
		where = fmt.Sprintf("%s line %d", where, e.Line)
	}
	if e.Key != "" {
		where += fmt.Sprintf(": set %q", e.Key)
	}
	return where + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// editor makes one edit. Text has no byte order mark and is valid UTF-8 (properties, ini and text
// may hold any bytes). It returns its own slice or text unchanged.
type editor struct {
	apply    func(text []byte, edit wire.Edit) ([]byte, error)
	checkKey func(key string) error
	anyBytes bool // old games keep Latin-1; lines that are not edited pass as they are
}

var editors = map[string]editor{
	"properties": {applyProperties, checkLineKey, true},
	"ini":        {applyINI, checkINIKey, true},
	"text":       {applyText, checkLineKey, true},
	"json":       {applyJSON, checkPath, false},
	"yaml":       {applyYAML, checkPath, false},
	"toml":       {applyTOML, checkPath, false},
	"xml":        {applyXML, checkXMLKey, false},
}

var byteOrderMark = []byte{0xEF, 0xBB, 0xBF}

// Apply makes the edits in their order and returns the new file; in is not changed. Applying the
// same edits again changes nothing (for text: when each value begins with its own key and with no
// other). A missing key is created where the format has its place for it, except in text. An empty
// in is a new file.
//
// The error is ErrTooLarge, ErrFormat, or *Error.
func Apply(format string, in []byte, edits []wire.Edit) ([]byte, error) {
	e, ok := editors[format]
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrFormat, format)
	}
	if len(in) > MaxBytes || len(edits) > MaxEdits || len(in)*len(edits) > MaxWork {
		return nil, fmt.Errorf("%w: %d bytes, %d edits; at most %d and %d, and their product %d", ErrTooLarge, len(in), len(edits), MaxBytes, MaxEdits, MaxWork)
	}
	text, marked := bytes.CutPrefix(in, byteOrderMark)
	if !e.anyBytes {
		if at := invalidUTF8(text); at >= 0 {
			return nil, &Error{Format: format, Line: lineOf(text, at), Err: errors.New("is not UTF-8")}
		}
	}
	text = bytes.Clone(text)
	for _, edit := range edits {
		if !utf8.ValidString(edit.Value) || !utf8.ValidString(edit.Key) {
			return nil, &Error{Format: format, Key: edit.Key, Err: errors.New("the value or the key is not UTF-8")}
		}
		if err := e.checkKey(edit.Key); err != nil {
			return nil, &Error{Format: format, Key: edit.Key, Err: err}
		}
		next, err := e.apply(text, edit)
		if err != nil {
			return nil, located(format, edit.Key, err)
		}
		if len(next) > MaxBytes {
			return nil, fmt.Errorf("%w: %d bytes after setting %q; at most %d", ErrTooLarge, len(next), edit.Key, MaxBytes)
		}
		text = next
	}
	if marked {
		text = append(bytes.Clone(byteOrderMark), text...)
	}
	return text, nil
}

// CheckKey says what is wrong with a key of that format, or nil.
func CheckKey(format, key string) error {
	e, ok := editors[format]
	if !ok {
		return fmt.Errorf("%w: %q", ErrFormat, format)
	}
	return e.checkKey(key)
}

// lineError carries the line of a fault up to Apply.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return e.err.Error() }
func (e *lineError) Unwrap() error { return e.err }

func atLine(line int, format string, args ...any) error {
	return &lineError{line, fmt.Errorf(format, args...)}
}

func located(format, key string, err error) *Error {
	out := &Error{Format: format, Key: key, Err: err}
	var l *lineError
	if errors.As(err, &l) {
		out.Line = l.line
	}
	return out
}

func lineOf(text []byte, offset int) int {
	return 1 + bytes.Count(text[:min(max(offset, 0), len(text))], []byte("\n"))
}

func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// splice returns text with [from, to) replaced.
func splice(text []byte, from, to int, with string) []byte {
	out := make([]byte, 0, len(text)-(to-from)+len(with))
	out = append(out, text[:from]...)
	out = append(out, with...)
	return append(out, text[to:]...)
}

// patch replaces text[from:to].
type patch struct {
	from, to int
	with     string
}

// patches are in the order of the text and do not overlap. A file may hold a key a hundred thousand
// times: neither time nor memory may grow with that, so there is one pass, and add refuses early.
type patches struct {
	list  []patch
	bytes int // of all replacements
}

func (p *patches) add(from, to int, with string) error {
	if p.bytes += len(with); p.bytes > MaxBytes {
		return errGrows
	}
	p.list = append(p.list, patch{from, to, with})
	return nil
}

func (p *patches) apply(text []byte) []byte {
	if len(p.list) == 0 {
		return text
	}
	out := make([]byte, 0, len(text)+p.bytes)
	at := 0
	for _, one := range p.list {
		out = append(append(out, text[at:one.from]...), one.with...)
		at = one.to
	}
	return append(out, text[at:]...)
}

var errGrows = fmt.Errorf("%w after the edit; at most %d bytes", ErrTooLarge, MaxBytes)

func checkPath(key string) error {
	_, err := parsePath(key, false)
	return err
}
