package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

const job = "etcd"

// scrape asks each target for its metrics and stores them as Prometheus does, with `up` beside them.
func scrape(ctx context.Context, db *tsdb.DB, targets []string) error {
	appender := db.Appender(ctx)
	at := timestamp.FromTime(time.Now())
	for _, target := range targets {
		up := 1.0
		if err := scrapeOne(ctx, appender, target, at); errors.Is(err, errNotThere) {
			up = 0
		} else if err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		series := labels.FromStrings(labels.MetricName, "up", "job", job, "instance", target)
		if _, err := appender.Append(0, series, at, up); err != nil {
			return err
		}
	}
	return appender.Commit()
}

var errNotThere = errors.New("nobody answers")

func scrapeOne(ctx context.Context, appender storage.Appender, target string, at int64) error {
	client := http.Client{Timeout: 5 * time.Second}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target+"/metrics", nil)
	if err != nil {
		return err
	}
	reply, err := client.Do(request)
	if err != nil {
		return errNotThere
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP %s", reply.Status)
	}
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		return errNotThere
	}
	parser := textparse.NewPromParser(body, labels.NewSymbolTable(), false)
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry != textparse.EntrySeries {
			continue
		}
		var series labels.Labels
		parser.Labels(&series)
		_, _, value := parser.Series()
		series = labels.NewBuilder(series).Set("job", job).Set("instance", target).Labels()
		if _, err := appender.Append(0, series, at, value); err != nil {
			return err
		}
	}
}
