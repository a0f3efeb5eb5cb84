package wire

import (
	"errors"
	"fmt"
	"time"
)

// SampleWindow is the length of one window of measurement. Windows are aligned to it in UTC, so an
// hour has 120 of them and every node cuts time at the same instants.
const SampleWindow = 30 * time.Second

// Bounds of samples.
const (
	SampleWindowS       = int64(SampleWindow / time.Second)
	SampleWindowMS      = int64(SampleWindow / time.Millisecond)
	MaxSamplesPerBatch  = 500
	MaxSampleBatchBytes = 1 << 20 // decompressed; one sample is about 400 bytes of JSON
	// Beyond these a value is no measurement. Every value of one sample stays below 2^63; a sum of
	// disk_byte_ms may not, so sums of disk are taken in byte-seconds.
	MaxSampleCores     = 1024
	MaxSampleMemoryMiB = 16 << 20 // 16 TiB
	MaxSampleDiskBytes = 1 << 48
	MaxSampleNetBytes  = 1 << 50 // in one window
)

// Sample is what one server used in one window, as integrals over the part of the window in which it
// was placed on the node under that epoch. (ServerID, PlacementEpoch, WindowUnixS) is its natural
// key: sent twice it counts once, and the first that came is the one that counts.
//
// A window without a sample is one that nobody knows of: it counts as nothing used. A sample whose
// MeasuredMS is less than its RunningMS says that the container provably ran, but that for the rest
// of the time what it used is not known; that rest is in none of the "used" values, and is in the
// reserved ones.
type Sample struct {
	Seq            int64  `json:"seq"` // contiguous from 1 within a spool id
	ServerID       string `json:"server_id"`
	PlacementEpoch int64  `json:"placement_epoch"`
	WindowUnixS    int64  `json:"window_unix_s"` // begin of the window, UTC; a multiple of 30

	RunningMS  int64 `json:"running_ms"`  // the game's container ran, 0 to 30,000
	MeasuredMS int64 `json:"measured_ms"` // of it, with CPU, memory and network known

	CPUUsedNS              int64 `json:"cpu_used_ns"`               // of all cores together
	CPUReservedMillicoreMS int64 `json:"cpu_reserved_millicore_ms"` // limit × running time
	MemoryUsedMiBMS        int64 `json:"memory_used_mib_ms"`        // without page cache that the kernel can take back
	MemoryReservedMiBMS    int64 `json:"memory_reserved_mib_ms"`    // limit × running time
	DiskByteMS             int64 `json:"disk_byte_ms"`              // also while it does not run
	NetInBytes             int64 `json:"net_in_bytes"`
	NetOutBytes            int64 `json:"net_out_bytes"`

	// The newest readings, for display only.
	MemoryLastBytes int64 `json:"memory_last_bytes"`
	DiskLastBytes   int64 `json:"disk_last_bytes"`

	// Gap stands in place of everything but Seq: samples From..To were dropped because the spool was
	// full, and Seq is To.
	Gap *Gap `json:"gap,omitempty"`
}

// SampleBatch is POST /v1/nodes/{id}/metrics, with Content-Encoding: gzip. Samples are in order of
// Seq, without holes. A batch without samples only says how far the node has delivered.
type SampleBatch struct {
	SpoolID string   `json:"spool_id"`
	Samples []Sample `json:"samples"`
	// DeliveredUnixS promises that with this batch the panel has been sent every sample of every
	// window that ended at or before it; 0: nothing is promised. It may fall when a node's clock was
	// set back: what then comes for windows before it is late.
	DeliveredUnixS int64     `json:"delivered_unix_s"`
	NodeClock      time.Time `json:"node_clock"`
}

// SampleAck answers a SampleBatch. The node drops what is acknowledged from its disk, and only that.
type SampleAck struct {
	AckedSeq   int64     `json:"acked_seq"` // highest contiguous sequence of that spool id that is durable
	PanelClock time.Time `json:"panel_clock"`
}

// Validate returns every fault of the sample joined, or nil. A panel passes over an invalid sample,
// says so to the operator, and goes on with the next: it would be no better the next time.
func (s *Sample) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Seq < 1 {
		bad("seq %d starts at 1", s.Seq)
	}
	if s.Gap != nil {
		if s.Gap.From < 1 || s.Gap.From > s.Gap.To || s.Gap.To != s.Seq {
			bad("gap %d to %d does not end at seq %d", s.Gap.From, s.Gap.To, s.Seq)
		}
		return errors.Join(errs...)
	}
	if !ValidID(s.ServerID) {
		bad("server_id %q is not an id", s.ServerID)
	}
	if s.PlacementEpoch < 1 {
		bad("placement_epoch starts at 1, got %d", s.PlacementEpoch)
	}
	if s.WindowUnixS < 0 || s.WindowUnixS%SampleWindowS != 0 {
		bad("window_unix_s %d is no multiple of %d", s.WindowUnixS, SampleWindowS)
	}
	for _, v := range s.values() {
		if v.have < 0 || v.have > v.most {
			bad("%s %d is outside 0 to %d", v.name, v.have, v.most)
		}
	}
	return errors.Join(errs...)
}

type boundedValue struct {
	name       string
	have, most int64
}

func (s *Sample) values() []boundedValue {
	return []boundedValue{
		{"running_ms", s.RunningMS, SampleWindowMS},
		{"measured_ms", s.MeasuredMS, s.RunningMS},
		{"cpu_used_ns", s.CPUUsedNS, MaxSampleCores * int64(SampleWindow)},
		{"cpu_reserved_millicore_ms", s.CPUReservedMillicoreMS, MaxSampleCores * 1000 * SampleWindowMS},
		{"memory_used_mib_ms", s.MemoryUsedMiBMS, MaxSampleMemoryMiB * SampleWindowMS},
		{"memory_reserved_mib_ms", s.MemoryReservedMiBMS, MaxSampleMemoryMiB * SampleWindowMS},
		{"disk_byte_ms", s.DiskByteMS, MaxSampleDiskBytes * SampleWindowMS},
		{"net_in_bytes", s.NetInBytes, MaxSampleNetBytes},
		{"net_out_bytes", s.NetOutBytes, MaxSampleNetBytes},
		{"memory_last_bytes", s.MemoryLastBytes, MaxSampleMemoryMiB << 20},
		{"disk_last_bytes", s.DiskLastBytes, MaxSampleDiskBytes},
	}
}
