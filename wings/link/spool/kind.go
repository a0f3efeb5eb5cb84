package spool

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// DefaultSampleBytes bounds the spool of samples. One takes about 60 bytes there, so that it holds
// 72 hours of a node with 1,000 servers (8,640 windows each).
const DefaultSampleBytes = 512 << 20

// kind says how the items of a spool are written and numbered.
type kind[T any] struct {
	perRecord int // items in one record at most
	encode    func(items []T) ([]byte, error)
	// span is the sequence of a payload's first item and how many there are, without more work than
	// that takes. An error, or what decode cannot read, is a torn record.
	span   func(payload []byte) (first, count int64, err error)
	decode func(payload []byte) ([]T, error)
	seq    func(item *T) *int64
	gap    func(from, to int64) T
}

// events are written one to a record as JSON, which keeps what an older wings wrote readable for a
// newer one.
var events = kind[wire.Event]{
	perRecord: 1,
	encode: func(items []wire.Event) ([]byte, error) {
		payload, err := json.Marshal(items[0])
		if err != nil {
			return nil, fmt.Errorf("encode event: %w", err)
		}
		return payload, nil
	},
	span: func(payload []byte) (first, count int64, err error) {
		var e wire.Event
		if json.Unmarshal(payload, &e) != nil {
			return 0, 0, errTorn
		}
		return e.Seq, 1, nil
	},
	decode: func(payload []byte) ([]wire.Event, error) {
		items := make([]wire.Event, 1)
		return items, json.Unmarshal(payload, &items[0])
	},
	seq: func(e *wire.Event) *int64 { return &e.Seq },
	gap: func(from, to int64) wire.Event {
		return wire.Event{Seq: to, At: time.Now().UTC(), Kind: wire.EventGap, Gap: &wire.Gap{From: from, To: to}}
	},
}

// samples come in whole windows and are much alike: a record is the first sequence and the count as
// varints, then the compressed JSON array. Opening the spool reads the varints alone.
var samples = kind[wire.Sample]{
	perRecord: wire.MaxSamplesPerBatch,
	encode:    encodeSamples,
	span: func(payload []byte) (first, count int64, err error) {
		first, count, _, err = sampleHead(payload)
		return first, count, err
	},
	decode: decodeSamples,
	seq:    func(s *wire.Sample) *int64 { return &s.Seq },
	gap: func(from, to int64) wire.Sample {
		return wire.Sample{Seq: to, Gap: &wire.Gap{From: from, To: to}}
	},
}

func encodeSamples(items []wire.Sample) ([]byte, error) {
	raw, err := json.Marshal(items)
	if err != nil {
		return nil, fmt.Errorf("encode samples: %w", err)
	}
	var out bytes.Buffer
	out.Write(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(items[0].Seq)), uint64(len(items))))
	w, err := flate.NewWriter(&out, flate.DefaultCompression)
	if err == nil {
		_, err = w.Write(raw)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("compress samples: %w", err)
	}
	return out.Bytes(), nil
}

// sampleHead reads the varints and returns what follows them.
func sampleHead(payload []byte) (first, count int64, rest []byte, err error) {
	a, n := binary.Uvarint(payload)
	if n <= 0 || a < 1 || a > 1<<62 {
		return 0, 0, nil, errTorn
	}
	b, m := binary.Uvarint(payload[n:])
	if m <= 0 || b < 1 || b > wire.MaxSamplesPerBatch {
		return 0, 0, nil, errTorn
	}
	return int64(a), int64(b), payload[n+m:], nil
}

func decodeSamples(payload []byte) ([]wire.Sample, error) {
	first, _, rest, err := sampleHead(payload)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(rest)), wire.MaxSampleBatchBytes))
	if err != nil {
		return nil, fmt.Errorf("decompress samples: %w", err)
	}
	var items []wire.Sample
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, fmt.Errorf("decode samples: %w", err)
	}
	for i := range items { // a renewed identity keeps its sequences; the head is what recovery believed
		if items[i].Seq != first+int64(i) {
			return nil, errTorn
		}
	}
	return items, nil
}
