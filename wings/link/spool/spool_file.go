package spool

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/mambahost/mamba/wings/wire"
)

// A record is 4 bytes length, 4 bytes CRC-32C of the payload (both little endian), and the payload:
// the event as JSON. JSON keeps what an older wings wrote readable for a newer one.
const recordHeader = 8

var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// errTorn marks where the good records of a segment end.
var errTorn = errors.New("record is torn")

func encode(e wire.Event) ([]byte, error) {
	payload, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	if len(payload) > maxRecordBytes {
		return nil, fmt.Errorf("event of %d bytes: %w", len(payload), ErrTooLarge)
	}
	record := make([]byte, recordHeader, recordHeader+len(payload))
	binary.LittleEndian.PutUint32(record, uint32(len(payload)))
	binary.LittleEndian.PutUint32(record[4:], crc32.Checksum(payload, castagnoli()))
	return append(record, payload...), nil
}

// decode reads one record. io.EOF is a clean end; errTorn anything that is not a whole record.
func decode(r io.Reader) (wire.Event, int64, error) {
	var header [recordHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errTorn
		}
		return wire.Event{}, 0, err
	}
	n := binary.LittleEndian.Uint32(header[:])
	if n == 0 || n > maxRecordBytes {
		return wire.Event{}, 0, errTorn
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errTorn
		}
		return wire.Event{}, 0, err
	}
	if crc32.Checksum(payload, castagnoli()) != binary.LittleEndian.Uint32(header[4:]) {
		return wire.Event{}, 0, errTorn
	}
	var e wire.Event
	if json.Unmarshal(payload, &e) != nil {
		return wire.Event{}, 0, errTorn
	}
	return e, recordHeader + int64(n), nil
}

// recover counts the good records of a segment and cuts off what follows them. What a torn segment
// in the middle lost shows as a hole before the next one, which Next announces.
func (s *Spool) recover(seg *segment) error {
	f, err := os.OpenFile(s.path(*seg), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		e, n, err := decode(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && e.Seq != seg.first+seg.count {
			err = errTorn
		}
		if errors.Is(err, errTorn) {
			if err := f.Truncate(seg.size); err != nil {
				return fmt.Errorf("cut torn tail: %w", err)
			}
			return f.Sync()
		}
		if err != nil {
			return err
		}
		seg.size, seg.count = seg.size+n, seg.count+1
	}
}

// read calls fn for the good records of a segment until it returns false; done says that it never did.
func (s *Spool) read(seg segment, fn func(e wire.Event, n int64) bool) (done bool, err error) {
	f, err := os.Open(s.path(seg))
	if err != nil {
		return false, err
	}
	defer f.Close()
	r := bufio.NewReader(io.LimitReader(f, seg.size))
	for range seg.count {
		e, n, err := decode(r)
		if err != nil {
			return false, fmt.Errorf("segment %d: %w", seg.first, err)
		}
		if !fn(e, n) {
			return false, nil
		}
	}
	return true, nil
}

// write appends to the open segment and syncs. What a failed write left behind is cut
// off before the next one, which would otherwise follow a torn record and be lost with it.
func (s *Spool) write(record []byte) error {
	open := &s.segments[len(s.segments)-1]
	if s.torn {
		if err := s.file.Truncate(open.size); err != nil {
			return err
		}
	}
	_, err := s.file.Write(record)
	if err == nil {
		err = s.file.Sync()
	}
	if s.torn = err != nil; s.torn {
		return err
	}
	open.size, open.count = open.size+int64(len(record)), open.count+1
	return nil
}

// rotate begins a new segment at the next sequence.
func (s *Spool) rotate() error {
	seg := segment{first: s.last + 1}
	f, err := os.OpenFile(s.path(seg), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if err := syncDir(s.cfg.Dir); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if s.file != nil {
		_ = s.file.Close() // every record in it is synced already
	}
	s.file, s.torn, s.segments = f, false, append(s.segments, seg)
	return nil
}

// writeFile replaces a file so that a crash leaves the old or the new one, whole.
func writeFile(dir, name string, data []byte) error {
	f, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
