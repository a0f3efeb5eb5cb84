package wire_test

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

func TestSamplesThatWereSentAreValid(t *testing.T) {
	t.Parallel()
	batch := load[wire.SampleBatch](t, "sample_batch")
	if len(batch.Samples) != 2 || batch.Samples[0].Gap == nil || batch.DeliveredUnixS != batch.Samples[1].WindowUnixS+wire.SampleWindowS {
		t.Fatalf("%+v", batch)
	}
	for _, s := range batch.Samples {
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestInvalidSamplesSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	good := load[wire.SampleBatch](t, "sample_batch").Samples[1]
	for name, c := range map[string]struct {
		spoil func(s *wire.Sample)
		says  string
	}{
		"no sequence":                     {func(s *wire.Sample) { s.Seq = 0 }, "seq"},
		"a server id that is a path":      {func(s *wire.Sample) { s.ServerID = "../../etc/passw" }, "server_id"},
		"no epoch":                        {func(s *wire.Sample) { s.PlacementEpoch = 0 }, "placement_epoch"},
		"a window that is not aligned":    {func(s *wire.Sample) { s.WindowUnixS++ }, "window_unix_s"},
		"a window before time began":      {func(s *wire.Sample) { s.WindowUnixS = -30 }, "window_unix_s"},
		"more running time than there is": {func(s *wire.Sample) { s.RunningMS = 30_001 }, "running_ms"},
		"measured while it did not run":   {func(s *wire.Sample) { s.RunningMS, s.MeasuredMS = 10, 11 }, "measured_ms"},
		"negative processor time":         {func(s *wire.Sample) { s.CPUUsedNS = -1 }, "cpu_used_ns"},
		"more cores than machines have":   {func(s *wire.Sample) { s.CPUUsedNS = 1 << 62 }, "cpu_used_ns"},
		"negative egress":                 {func(s *wire.Sample) { s.NetOutBytes = -5 }, "net_out_bytes"},
		"egress of a counter that turned": {func(s *wire.Sample) { s.NetOutBytes = 1<<63 - 1 }, "net_out_bytes"},
		"negative memory":                 {func(s *wire.Sample) { s.MemoryUsedMiBMS = -1 }, "memory_used_mib_ms"},
		"negative reservation":            {func(s *wire.Sample) { s.MemoryReservedMiBMS = -1 }, "memory_reserved_mib_ms"},
		"too many reserved cores":         {func(s *wire.Sample) { s.CPUReservedMillicoreMS = 1 << 62 }, "cpu_reserved_millicore_ms"},
		"negative disk":                   {func(s *wire.Sample) { s.DiskByteMS = -1 }, "disk_byte_ms"},
		"negative ingress":                {func(s *wire.Sample) { s.NetInBytes = -1 }, "net_in_bytes"},
		"negative last memory":            {func(s *wire.Sample) { s.MemoryLastBytes = -1 }, "memory_last_bytes"},
		"negative last disk":              {func(s *wire.Sample) { s.DiskLastBytes = -1 }, "disk_last_bytes"},
		"a gap that ends elsewhere":       {func(s *wire.Sample) { s.Gap = &wire.Gap{From: 1, To: s.Seq - 1} }, "gap"},
		"a gap that runs backwards":       {func(s *wire.Sample) { s.Gap = &wire.Gap{From: s.Seq + 1, To: s.Seq} }, "gap"},
	} {
		s := good
		c.spoil(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A node one version behind sends none of the fields that came later; what is absent is zero and
// means that nothing was used, not that the sample is bad.
func TestASampleOfAnOlderNodeIsTaken(t *testing.T) {
	t.Parallel()
	var s wire.Sample
	if err := json.Unmarshal([]byte(`{"seq":1,"server_id":"s1a2b3c4d5e6f7g","placement_epoch":1,"window_unix_s":30,"running_ms":30000}`), &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil || s.CPUUsedNS != 0 || s.MeasuredMS != 0 {
		t.Fatalf("%+v: %v", s, err)
	}
}

// 500 samples with the largest values fit into a batch.
func TestAFullBatchFits(t *testing.T) {
	t.Parallel()
	s := wire.Sample{Seq: 1 << 60, ServerID: "s1a2b3c4d5e6f7g", PlacementEpoch: 1 << 60, WindowUnixS: 1 << 40, RunningMS: 30_000, MeasuredMS: 30_000,
		CPUUsedNS: 1 << 60, CPUReservedMillicoreMS: 1 << 60, MemoryUsedMiBMS: 1 << 60, MemoryReservedMiBMS: 1 << 60, DiskByteMS: 1 << 62,
		NetInBytes: 1 << 60, NetOutBytes: 1 << 60, MemoryLastBytes: 1 << 60, DiskLastBytes: 1 << 60, Gap: &wire.Gap{From: 1 << 60, To: 1 << 60}}
	batch := wire.SampleBatch{SpoolID: strings.Repeat("x", 64)}
	for range wire.MaxSamplesPerBatch {
		batch.Samples = append(batch.Samples, s)
	}
	raw, err := json.Marshal(batch)
	if err != nil || len(raw) > wire.MaxSampleBatchBytes {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	t.Logf("%d bytes of at most %d", len(raw), wire.MaxSampleBatchBytes)
}

// Whatever integers arrive, what Validate lets pass can be summed over an hour of windows without
// overflow, disk in byte-seconds.
func TestAnHourOfValidSamplesCanBeSummed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		any := rapid.Int64()
		s := wire.Sample{Seq: 1, ServerID: "s1a2b3c4d5e6f7g", PlacementEpoch: 1, WindowUnixS: 30,
			RunningMS: rapid.Int64Range(-1, 30_001).Draw(t, "running"), CPUUsedNS: any.Draw(t, "cpu"), MemoryUsedMiBMS: any.Draw(t, "memory"),
			CPUReservedMillicoreMS: any.Draw(t, "cpu reserved"), MemoryReservedMiBMS: any.Draw(t, "memory reserved"),
			DiskByteMS: any.Draw(t, "disk"), NetInBytes: any.Draw(t, "in"), NetOutBytes: any.Draw(t, "out")}
		if s.Validate() != nil {
			return
		}
		for _, v := range []int64{s.RunningMS, s.CPUUsedNS, s.CPUReservedMillicoreMS, s.MemoryUsedMiBMS, s.MemoryReservedMiBMS, s.DiskByteMS / 1000, s.NetInBytes, s.NetOutBytes} {
			if v < 0 || v*120/120 != v || v*120 < 0 {
				t.Fatalf("%d of %+v", v, s)
			}
		}
	})
}
