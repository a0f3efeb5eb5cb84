package cluster

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

const sender = "abcdefghij12345"

func newJoiner() *joiner { return &joiner{partial: map[string]*partial{}} }

// What is sent arrives byte for byte, whatever it is, in parts that NOTIFY takes.
func TestABatchArrivesAsItWasSent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var sent []Message
		for i := range rapid.IntRange(0, 5).Draw(t, "messages") {
			data := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "data")
			if rapid.Bool().Draw(t, "text") {
				data = []byte(rapid.StringN(0, 9000, -1).Draw(t, "string"))
			}
			sent = append(sent, Message{Topic: fmt.Sprintf("topic%d", i), From: sender, Data: data})
		}
		text, err := encodeBatch(sent)
		if err != nil {
			t.Fatal(err)
		}
		j := newJoiner()
		var got []Message
		payloads := split(sender, 7, text)
		for i, p := range payloads {
			if len(p) > maxPayload || !utf8.ValidString(p) || strings.ContainsRune(p, 0) {
				t.Fatalf("part %d of %d is not for NOTIFY: %d bytes", i, len(payloads), len(p))
			}
			m, err := j.take(p, time.Now())
			if err != nil || i < len(payloads)-1 && m != nil {
				t.Fatalf("part %d of %d: %v %v", i, len(payloads), m, err)
			}
			got = m
		}
		if !slices.EqualFunc(got, sent, func(a, b Message) bool {
			return a.Topic == b.Topic && a.From == b.From && bytes.Equal(a.Data, b.Data)
		}) {
			t.Fatalf("got %v, sent %v", got, sent)
		}
	})
}

func TestPartsOfALostSenderAreDropped(t *testing.T) {
	t.Parallel()
	now := time.Now()
	long := split(sender, 1, strings.Repeat("x", 20_000))
	j := newJoiner()
	for i := range maxPartials {
		if m, err := j.take(split(sender, uint64(i+2), strings.Repeat("x", 20_000))[0], now); m != nil || err != nil {
			t.Fatal(m, err)
		}
	}
	if _, err := j.take(long[0], now); err == nil {
		t.Fatal("the parts of lost senders have no bound")
	}
	if _, err := j.take(long[0], now.Add(partialLife+time.Second)); err != nil || len(j.partial) != 1 {
		t.Fatalf("%v, %d kept", err, len(j.partial))
	}
}

func TestWhatIsNoFrameIsRefused(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string]string{
		"nothing":              "",
		"no head":              "1 abc 1 0 1",
		"another version":      "2 abc 1 0 1\n",
		"a part too far":       "1 abc 1 1 1\n",
		"a negative part":      "1 abc 1 -1 1\n",
		"too many parts":       "1 abc 1 0 99999999\n",
		"a length too long":    "1 abc 1 0 1\ntopic t 5\nabc",
		"a negative length":    "1 abc 1 0 1\ntopic t -5\nabc",
		"no base64":            "1 abc 1 0 1\ntopic b 3\n!!!",
		"a message of no form": "1 abc 1 0 1\ntopic\nabc",
	} {
		if m, err := newJoiner().take(payload, time.Now()); err == nil {
			t.Errorf("%s was taken: %v", name, m)
		}
	}
	if _, err := encodeBatch([]Message{{Topic: "a", Data: make([]byte, maxBatch)}}); err == nil {
		t.Error("a batch over the bound was encoded")
	}
}
