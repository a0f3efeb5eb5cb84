package fleet

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// Samples is what the metering room does with what nodes measured.
type Samples interface {
	// Take makes a batch of a node durable and returns the highest contiguous sequence of its spool
	// that is. What does not count is settled all the same. An error: the node sends again.
	Take(ctx context.Context, node string, b wire.SampleBatch) (ackedSeq int64, err error)
}

// maxSampleBody bounds a batch as it comes, compressed.
const maxSampleBody = wire.MaxSampleBatchBytes / 2

func (f *Fleet) handleMetrics(w http.ResponseWriter, r *http.Request) {
	var in wire.SampleBatch
	if err := decodeCompressed(w, r, maxSampleBody, wire.MaxSampleBatchBytes, &in); err != nil {
		f.fail(w, r, err)
		return
	}
	if in.SpoolID == "" || len(in.SpoolID) > 64 || len(in.Samples) > wire.MaxSamplesPerBatch {
		answerError(w, &wire.Error{Status: http.StatusBadRequest, Code: "batch_invalid", Message: fmt.Sprintf("A batch has a spool id and at most %d samples.", wire.MaxSamplesPerBatch)})
		return
	}
	acked, err := f.cfg.Samples.Take(r.Context(), callerOf(r).node, in)
	if err != nil {
		f.fail(w, r, err)
		return
	}
	answer(w, wire.SampleAck{AckedSeq: acked, PanelClock: time.Now().UTC()})
}

// decodeCompressed reads one JSON value that may be gzip-compressed: at most limit bytes of it, and at
// most whole once decompressed.
func decodeCompressed(w http.ResponseWriter, r *http.Request, limit, whole int64, into any) error {
	switch r.Header.Get("Content-Encoding") {
	case "":
		return decodeBody(w, r, limit, into)
	case "gzip":
	default:
		return &wire.Error{Status: http.StatusUnsupportedMediaType, Code: "invalid", Message: "Only gzip is understood as a compression."}
	}
	unreadable := &wire.Error{Status: http.StatusBadRequest, Code: "invalid", Message: "The request is not the compressed JSON that is expected here."}
	unzip, err := gzip.NewReader(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return unreadable
	}
	raw, err := io.ReadAll(io.LimitReader(unzip, whole+1))
	var large *http.MaxBytesError
	if errors.As(err, &large) || int64(len(raw)) > whole {
		return &wire.Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Message: "The request is too large."}
	}
	if err != nil || json.Unmarshal(raw, into) != nil {
		return unreadable
	}
	return nil
}
