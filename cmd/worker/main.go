// Command worker runs the jobs: it analyses the kept calls and hands the
// results on.
package main

import (
	"os"

	"postcall/pkg/app"
)

func main() { os.Exit(app.WorkerMain()) }
