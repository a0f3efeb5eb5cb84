package jobs

import (
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Purge removes the jobs of a tenant that is gone with their steps, in the caller's transaction. One that runs has lost
// its lease with its row, and can write nothing any more.
func (q *Queue) Purge(tx core.App, tenant string) (map[string]int64, error) {
	var running []string
	if err := tx.DB().Select("id").From(collections.Jobs).Where(dbx.HashExp{"tenant": tenant, "state": Running}).Column(&running); err != nil {
		return nil, fmt.Errorf("list the jobs of tenant %s: %w", tenant, err)
	}
	res, err := tx.NonconcurrentDB().NewQuery("DELETE FROM {{job_steps}} WHERE [[job]] IN (SELECT [[id]] FROM {{jobs}} WHERE [[tenant]] = {:tenant})").
		Bind(dbx.Params{"tenant": tenant}).Execute()
	if err != nil {
		return nil, fmt.Errorf("purge the steps of the jobs of tenant %s: %w", tenant, err)
	}
	steps, err := res.RowsAffected()
	if err != nil {
		return nil, err
	}
	gone, err := permit.Purge(tx, tenant, collections.Jobs)
	if err != nil {
		return nil, err
	}
	gone[collections.JobSteps] = steps
	collections.AfterCommit(tx, func() {
		for _, id := range running {
			q.interrupt(id, ErrCancelled)
		}
	})
	return gone, nil
}
