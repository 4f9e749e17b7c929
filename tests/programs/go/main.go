// Counts in memory, with the server of Go's own library and a goroutine that ticks.
package main

import (
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

func main() {
	var count, ticks atomic.Int64
	go func() {
		for range time.Tick(time.Second) {
			ticks.Add(1)
		}
	}()
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(answer, "pid=%d count=%d ticks=%d", os.Getpid(), count.Add(1), ticks.Load())
	})
	if err := http.ListenAndServe(":"+os.Getenv("PORT"), nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
