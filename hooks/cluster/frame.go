package cluster

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of what goes through NOTIFY, whose payload is text of less than 8,000 bytes
// (postgresql.org/docs/15/sql-notify.html).
const (
	maxPayload  = 7900             // bytes of one part, header included
	maxHeader   = 64               // bytes: "1 <instance> <number> <part> <parts>\n"
	maxBatch    = 4 << 20          // bytes of all messages of one transaction
	maxPartials = 64               // batches of which parts are missing
	partialLife = 30 * time.Second // a sender is given up on after that
)

// frameVersion is the first word of every part; parts of another release's version are left out.
const frameVersion = "1"

// encodeBatch writes messages one after the other: "<topic> <form> <bytes>\n" and as many bytes. The
// form is t for text as it is, b for base64 of what is no text.
func encodeBatch(messages []Message) (string, error) {
	var b strings.Builder
	for _, m := range messages {
		form, text := "t", string(m.Data)
		if !utf8.Valid(m.Data) || strings.ContainsRune(text, 0) {
			form, text = "b", base64.StdEncoding.EncodeToString(m.Data)
		}
		fmt.Fprintf(&b, "%s %s %d\n%s", m.Topic, form, len(text), text)
	}
	if b.Len() > maxBatch {
		return "", fmt.Errorf("one transaction publishes %d bytes, at most %d", b.Len(), maxBatch)
	}
	return b.String(), nil
}

var errFrame = errors.New("the message cannot be read")

func decodeBatch(from, text string) ([]Message, error) {
	var out []Message
	for text != "" {
		head, rest, ok := strings.Cut(text, "\n")
		words := strings.Split(head, " ")
		if !ok || len(words) != 3 {
			return nil, errFrame
		}
		n, err := strconv.Atoi(words[2])
		if err != nil || n < 0 || n > len(rest) {
			return nil, errFrame
		}
		m := Message{Topic: words[0], From: from, Data: []byte(rest[:n])}
		if words[1] == "b" {
			if m.Data, err = base64.StdEncoding.DecodeString(rest[:n]); err != nil {
				return nil, errFrame
			}
		}
		out, text = append(out, m), rest[n:]
	}
	return out, nil
}

// split cuts a batch into payloads of at most maxPayload bytes, never inside a character.
func split(from string, number uint64, text string) []string {
	var pieces []string
	for len(text) > maxPayload-maxHeader {
		cut := maxPayload - maxHeader
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		pieces, text = append(pieces, text[:cut]), text[cut:]
	}
	pieces = append(pieces, text)
	for i, p := range pieces {
		pieces[i] = fmt.Sprintf("%s %s %d %d %d\n%s", frameVersion, from, number, i, len(pieces), p)
	}
	return pieces
}

// joiner puts the parts of batches together again. It is owned by the session.
type joiner struct {
	partial map[string]*partial // by "<instance> <number>"
}

type partial struct {
	parts   []string
	missing int
	since   time.Time
}

// take returns the messages of the batch that this payload completes, nil while parts are missing.
func (j *joiner) take(payload string, now time.Time) ([]Message, error) {
	head, body, ok := strings.Cut(payload, "\n")
	words := strings.Split(head, " ")
	if !ok || len(words) != 5 || words[0] != frameVersion {
		return nil, errFrame
	}
	from := words[1]
	part, err1 := strconv.Atoi(words[3])
	parts, err2 := strconv.Atoi(words[4])
	if err1 != nil || err2 != nil || part < 0 || part >= parts || parts > maxBatch/(maxPayload-maxHeader)*2 {
		return nil, errFrame
	}
	if parts == 1 {
		return decodeBatch(from, body)
	}
	j.expire(now)
	key := from + " " + words[2]
	p := j.partial[key]
	if p == nil {
		if len(j.partial) >= maxPartials {
			return nil, fmt.Errorf("%w: parts of %d others are missing", errFrame, len(j.partial))
		}
		p = &partial{parts: make([]string, parts), missing: parts, since: now}
		j.partial[key] = p
	}
	if parts != len(p.parts) {
		return nil, errFrame
	}
	if p.parts[part] == "" {
		p.parts[part] = body
		p.missing--
	}
	if p.missing > 0 {
		return nil, nil
	}
	delete(j.partial, key)
	return decodeBatch(from, strings.Join(p.parts, ""))
}

func (j *joiner) expire(now time.Time) {
	for key, p := range j.partial {
		if now.Sub(p.since) > partialLife {
			delete(j.partial, key)
		}
	}
}
