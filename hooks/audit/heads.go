package audit

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// maxHeadLine bounds one line of a heads file.
const maxHeadLine = 4 << 10

// HeadSink keeps the signed heads where whoever can write the database cannot (another folder, disk or
// host). Lines have no newline.
type HeadSink interface {
	// Append stores the lines, all durable when it returns nil.
	Append(lines [][]byte) error
	// Each calls fn for every line in the order of writing.
	Each(fn func(line []byte) error) error
}

// Dir is a HeadSink in a folder outside pb_data: the file heads.jsonl, only ever appended to.
type Dir string

const headsFile = "heads.jsonl"

// Append writes the lines at the end of the file and syncs it. A line that a crash cut short is ended
// first, so that it spoils no other; Verify counts it.
func (d Dir) Append(lines [][]byte) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("make the folder of the audit heads: %w", err)
	}
	path := filepath.Join(string(d), headsFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the audit heads: %w", err)
	}
	var buf bytes.Buffer
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			buf.WriteByte('\n')
		}
	}
	for _, l := range lines {
		buf.Write(l)
		buf.WriteByte('\n')
	}
	_, err = f.Write(buf.Bytes())
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("append to the audit heads: %w", err)
	}
	folder, err := os.Open(string(d))
	if err != nil {
		return fmt.Errorf("sync the folder of the audit heads: %w", err)
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Each reads the file; a file that does not exist yet has no lines.
func (d Dir) Each(fn func(line []byte) error) error {
	f, err := os.Open(filepath.Join(string(d), headsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the audit heads: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, maxHeadLine), maxHeadLine)
	for s.Scan() {
		if len(s.Bytes()) == 0 {
			continue
		}
		if err := fn(s.Bytes()); err != nil {
			return err
		}
	}
	return s.Err()
}

// signedHead is one line: at this time the tenant's chain was seq rows long and ended in mac. sig is
// over all of it and over the sig of the line before, so that lines cannot be taken out.
type signedHead struct {
	At     string `json:"at"` // RFC 3339, UTC
	Tenant string `json:"tenant"`
	Seq    int64  `json:"seq"`
	MAC    string `json:"mac"` // of row seq
	Prev   string `json:"prev"`
	Sig    string `json:"sig"`
}

func sign(key []byte, h signedHead) string {
	return mac(key, "signed", h.At, h.Tenant, seqText(h.Seq), h.MAC, h.Prev)
}

// WriteHeads appends the head of every chain that grew since the last call to the sink. It is meant to
// run hourly. A chain whose end does not fit its head is not signed and is named in the error; the
// others are written all the same. So is a sink that has lost lines: what it had is remembered, and Verify misses it.
func (l *Log) WriteHeads(app core.App) error {
	if l.sink == nil {
		return nil
	}
	l.heads.Lock()
	defer l.heads.Unlock()
	if err := l.keys.Refresh(app); err != nil {
		return err
	}
	files, err := headFiles(app)
	if err != nil {
		return err
	}
	file, err := l.readHeads(l.sink, files, nil)
	if err != nil {
		return err
	}
	heads, err := collections.Every[collections.AuditHead](app, collections.AuditHeads, "tenant", 0)
	if err != nil {
		return fmt.Errorf("read audit heads: %w", err)
	}
	now := time.Now().UTC().Format(time.RFC3339)
	var lines [][]byte
	var refused []error
	for _, head := range heads {
		row, err := l.rowAt(app, head.Tenant(), head.Seq())
		if err != nil {
			return err
		}
		if row == nil || l.headKey(head, head.Seq(), row.MAC()) < 0 {
			refused = append(refused, fmt.Errorf("the audit chain of tenant %q does not end in its head", head.Tenant()))
			continue
		}
		if last, ok := file.last[head.Tenant()]; ok && last.Seq == head.Seq() && last.MAC == row.MAC() {
			continue
		}
		h := signedHead{At: now, Tenant: head.Tenant(), Seq: head.Seq(), MAC: row.MAC(), Prev: file.tip}
		h.Sig = sign(l.keys.All()[0], h)
		line, err := json.Marshal(h)
		if err != nil {
			return fmt.Errorf("encode an audit head: %w", err)
		}
		lines, file.tip = append(lines, line), h.Sig
		if file.origin == "" {
			file.origin = h.Sig
		}
	}
	if len(lines) > 0 {
		if err := l.sink.Append(lines); err != nil {
			return err
		}
	}
	if err := remember(app, files, file); err != nil {
		refused = append(refused, err)
	}
	return errors.Join(refused...)
}

// headFiles are the files of signed heads that were written to, by their first line.
func headFiles(app core.App) (map[string]*collections.AuditFile, error) {
	rows, err := collections.Every[collections.AuditFile](app, collections.AuditFiles, "created, id", 0)
	if err != nil {
		return nil, fmt.Errorf("read which signed heads there are: %w", err)
	}
	out := map[string]*collections.AuditFile{}
	for _, r := range rows {
		out[r.Origin()] = r
	}
	return out, nil
}

// remember keeps how far a file of signed heads goes, so that it cannot become shorter unseen.
func remember(app core.App, files map[string]*collections.AuditFile, file headFile) error {
	row := files[file.origin]
	switch {
	case file.origin == "" || row != nil && row.Tip() == file.tip:
		return nil
	case row != nil && !file.whole:
		return errors.New("the file of signed heads has lost its last lines")
	case row == nil:
		var err error
		if row, err = collections.NewAuditFile(app); err != nil {
			return err
		}
		row.SetOrigin(file.origin)
	}
	row.SetTip(file.tip)
	return collections.Tx(app, nil, func(tx core.App) error { return permit.Save(tx, row) })
}

// headFile is what was read of a sink.
type headFile struct {
	origin, tip string                // signatures of its first and its last good line
	last        map[string]signedHead // the last good head of every tenant
	whole       bool                  // it has the line that it is known to go to
	bad         int                   // lines that are not as we wrote them
}

// readHeads walks a sink. each, if not nil, sees every good head.
func (l *Log) readHeads(sink HeadSink, known map[string]*collections.AuditFile, each func(signedHead) error) (headFile, error) {
	f := headFile{last: map[string]signedHead{}}
	all := l.keys.All()
	version := len(all) - 1
	err := sink.Each(func(line []byte) error {
		var h signedHead
		if json.Unmarshal(line, &h) != nil {
			f.bad++
			return nil
		}
		by := signedBy(all, version, h.Sig, func(key []byte) string { return sign(key, h) })
		if by < 0 {
			f.bad++
			return nil
		}
		version = by
		if h.Prev != f.tip {
			f.bad++ // a good line, but its predecessor is gone or was moved
		}
		if f.origin == "" {
			f.origin = h.Sig
		}
		if row := known[f.origin]; row != nil && row.Tip() == h.Sig {
			f.whole = true
		}
		f.tip, f.last[h.Tenant] = h.Sig, h
		if each == nil {
			return nil
		}
		return each(h)
	})
	if err != nil {
		return headFile{}, fmt.Errorf("read the audit heads: %w", err)
	}
	return f, nil
}

// Anchor signs every head anew that an older version of the key signed and that is as it was written:
// whoever has the older version can then no more write a chain that looks like ours. It may be ended
// at any point and called again.
func (l *Log) Anchor(ctx context.Context, app core.App) error {
	if err := l.keys.Refresh(app); err != nil {
		return err
	}
	heads, err := collections.Every[collections.AuditHead](app, collections.AuditHeads, "tenant", 0)
	if err != nil {
		return fmt.Errorf("read audit heads: %w", err)
	}
	for _, h := range heads {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := collections.Tx(app, []collections.Lock{Lock(h.Tenant())}, func(tx core.App) error {
			head, err := collections.One[collections.AuditHead](tx, collections.AuditHeads, dbx.HashExp{"tenant": h.Tenant()})
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			row, err := l.rowAt(tx, head.Tenant(), head.Seq())
			if err != nil || row == nil || l.headKey(head, head.Seq(), row.MAC()) < 1 {
				return err // signed with the newest, or not ours: that is for Verify to tell
			}
			head.SetMAC(headMAC(l.keys.All()[0], head.Tenant(), head.Seq(), row.MAC()))
			return permit.Save(tx, head)
		})
		if err != nil {
			return fmt.Errorf("sign the audit head of tenant %q anew: %w", h.Tenant(), err)
		}
	}
	return nil
}
