// Command mixin scrapes members and evaluates the alert rules and dashboard queries of etcd's own mixin on what they say, with
// Prometheus' own parser and engine. See mixin.sh, which starts it.
//
// Exit 1: an expression cannot be evaluated, selects what nobody measures, or an alert is not raised that should be, or is.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
)

type evaluator struct {
	engine *promql.Engine
	db     *tsdb.DB
	at     time.Time
}

func (e *evaluator) evaluate(ctx context.Context, promQL string) (promql.Vector, error) {
	query, err := e.engine.NewInstantQuery(ctx, e.db, nil, promQL, e.at)
	if err != nil {
		return nil, err
	}
	defer query.Close()
	answer := query.Exec(ctx)
	if answer.Err != nil {
		return nil, answer.Err
	}
	return answer.Vector()
}

// unmeasured: the selectors of an expression that select nothing at all. An alert about what nobody measures is never raised.
func (e *evaluator) unmeasured(ctx context.Context, promQL string) ([]string, error) {
	expression, err := parser.NewParser(parser.Options{}).ParseExpr(promQL)
	if err != nil {
		return nil, err
	}
	var found []string
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		series, failure := e.evaluate(ctx, fmt.Sprintf("count(%s)", selector))
		if failure != nil {
			err = failure
		} else if len(series) == 0 {
			found = append(found, selector.String())
		}
		return nil
	})
	return found, err
}

func main() {
	mixin := flag.String("mixin", "", "directory contrib/mixin of etcd's module")
	targets := flag.String("targets", "", "URLs of the members' metrics listeners")
	scrapes := flag.Int("scrapes", 15, "how often they are asked, once a second")
	raised := flag.String("raised", "", "alerts that have to be raised, the others may be; none: no alert may be raised")
	absent := flag.String("absent", "", "metrics that need not be there")
	flag.Parse()
	if err := run(*mixin, strings.Split(*targets, ","), *scrapes, split(*raised), split(*absent)); err != nil {
		fmt.Fprintln(os.Stderr, "mixin:", err)
		os.Exit(1)
	}
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func run(mixin string, targets []string, scrapes int, due, absent []string) error {
	ctx := context.Background()
	questions, err := readMixin(mixin)
	if err != nil {
		return err
	}
	directory, err := os.MkdirTemp("", "mixin")
	if err != nil {
		return err
	}
	defer os.RemoveAll(directory)
	db, err := tsdb.Open(directory, slog.New(slog.DiscardHandler), nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		return err
	}
	defer db.Close()
	for range scrapes {
		if err := scrape(ctx, db, targets); err != nil {
			return err
		}
		time.Sleep(time.Second)
	}
	evaluator := evaluator{
		engine: promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000_000, Timeout: time.Minute}),
		db:     db,
		at:     time.Now(),
	}
	var complaints, seen []string
	alerts, panels := 0, 0
	for _, question := range questions {
		answer, err := evaluator.evaluate(ctx, question.promQL)
		if err != nil {
			complaints = append(complaints, fmt.Sprintf("%s: %v", question.name, err))
			continue
		}
		if question.isAlert {
			alerts++
			if len(answer) > 0 {
				seen = append(seen, question.name)
			}
		} else {
			panels++
		}
		missing, err := evaluator.unmeasured(ctx, question.promQL)
		if err != nil {
			return err
		}
		for _, selector := range missing {
			if !slices.ContainsFunc(absent, func(metric string) bool { return strings.HasPrefix(selector, metric) }) {
				complaints = append(complaints, fmt.Sprintf("%s: nobody measures %s", question.name, selector))
			}
		}
	}
	for _, alert := range due {
		if !slices.Contains(seen, alert) {
			complaints = append(complaints, alert+" is not raised")
		}
	}
	if len(due) == 0 && len(seen) > 0 {
		complaints = append(complaints, fmt.Sprintf("raised: %v", seen))
	}
	fmt.Printf("%d alerts and %d queries evaluated; raised: %v\n", alerts, panels, seen)
	for _, complaint := range complaints {
		fmt.Println("FAILED ", complaint)
	}
	if len(complaints) > 0 {
		return fmt.Errorf("%d complaints", len(complaints))
	}
	return nil
}
