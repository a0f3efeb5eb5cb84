package servers

import (
	"net/http"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/metering"
)

// MetricsView is the answer of GET /servers/{id}/metrics.
type MetricsView struct {
	Range  string  `json:"range"`
	NowS   int64   `json:"now_unix_s"` // the panel's clock; what is missing before it is still on its way
	Limits Ceiling `json:"limits"`
	metering.Chart
}

// Ceiling is what a server may use, in the units of the chart.
type Ceiling struct {
	CPUMillicores int64 `json:"cpu_millicores"`
	MemoryBytes   int64 `json:"memory_bytes"`
	DiskBytes     int64 `json:"disk_bytes"`
}

func (s *Servers) metrics(e *core.RequestEvent) error {
	_, row, err := s.allowed(e, "server.read")
	if err != nil {
		return err
	}
	name := e.Request.URL.Query().Get("range")
	if name == "" {
		name = "1h"
	}
	span, ok := metering.Spans[name]
	if !ok {
		return access.Invalid(map[string]access.FieldError{"range": {Code: "unknown", Message: "Ask for 1h or 24h."}})
	}
	now := time.Now()
	chart, err := s.Charts.Chart(e.Request.Context(), row.Id, span, now)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, MetricsView{
		Range: name, NowS: now.Unix(), Chart: chart,
		Limits: Ceiling{row.CPULimitMillicores(), row.MemLimitMB() << 20, row.DiskGB() << 30},
	})
}
