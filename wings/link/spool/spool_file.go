package spool

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// A record is 4 bytes length, 4 bytes CRC-32C of the payload (both little endian), and the payload:
// one or more items in their kind's encoding.
const recordHeader = 8

var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// errTorn marks where the good records of a segment end.
var errTorn = errors.New("record is torn")

// frame appends a record with that payload.
func frame(to, payload []byte) []byte {
	to = binary.LittleEndian.AppendUint32(to, uint32(len(payload)))
	to = binary.LittleEndian.AppendUint32(to, crc32.Checksum(payload, castagnoli()))
	return append(to, payload...)
}

// unframe reads the payload of one record. io.EOF is a clean end; errTorn anything that is not a
// whole record.
func unframe(r io.Reader) (payload []byte, n int64, err error) {
	var header [recordHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errTorn
		}
		return nil, 0, err
	}
	length := binary.LittleEndian.Uint32(header[:])
	if length == 0 || length > maxRecordBytes {
		return nil, 0, errTorn
	}
	payload = make([]byte, length)
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errTorn
		}
		return nil, 0, err
	}
	if crc32.Checksum(payload, castagnoli()) != binary.LittleEndian.Uint32(header[4:]) {
		return nil, 0, errTorn
	}
	return payload, recordHeader + int64(length), nil
}

// recover counts the good items of a segment and cuts off what follows them. What a torn segment
// in the middle lost shows as a hole before the next one, which Next announces.
func (s *Stream[T]) recover(seg *segment) error {
	f, err := os.OpenFile(s.path(*seg), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		payload, n, err := unframe(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var first, count int64
		if err == nil {
			first, count, err = s.kind.span(payload)
		}
		if err == nil && first != seg.first+seg.count {
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
		seg.size, seg.count = seg.size+n, seg.count+count
	}
}

// read calls fn for the good records of a segment, each with its items from sequence from on, until
// it returns false; done says that it never did.
func (s *Stream[T]) read(seg segment, from int64, fn func(items []T, n int64) bool) (done bool, err error) {
	f, err := os.Open(s.path(seg))
	if err != nil {
		return false, err
	}
	defer f.Close()
	r := bufio.NewReader(io.LimitReader(f, seg.size))
	for at := seg.first; at < seg.first+seg.count; {
		payload, n, err := unframe(r)
		if err != nil {
			return false, fmt.Errorf("segment %d: %w", seg.first, err)
		}
		_, count, err := s.kind.span(payload)
		if err != nil {
			return false, fmt.Errorf("segment %d: %w", seg.first, err)
		}
		begin := at
		if at += count; at <= from {
			continue
		}
		items, err := s.kind.decode(payload)
		if err != nil || int64(len(items)) != count {
			return false, fmt.Errorf("segment %d: record of %d: %w", seg.first, begin, errors.Join(err, errTorn))
		}
		if !fn(items[max(0, from-begin):], n) {
			return false, nil
		}
	}
	return true, nil
}

// write appends to the open segment and syncs. What a failed write left behind is cut
// off before the next one, which would otherwise follow a torn record and be lost with it.
func (s *Stream[T]) write(records []byte, items int64) error {
	open := &s.segments[len(s.segments)-1]
	if s.torn {
		if err := s.file.Truncate(open.size); err != nil {
			return err
		}
	}
	_, err := s.file.Write(records)
	if err == nil {
		err = s.file.Sync()
	}
	if s.torn = err != nil; s.torn {
		return err
	}
	open.size, open.count = open.size+int64(len(records)), open.count+items
	return nil
}

// rotate begins a new segment at the next sequence.
func (s *Stream[T]) rotate() error {
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
