package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/db"
)

func main() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Args[1])
	if err != nil {
		panic(err)
	}
	if err := db.Up(ctx, pool); err != nil {
		panic(err)
	}
	n, _ := strconv.Atoi(os.Args[2])
	began := time.Now()
	if err := fill(ctx, pool, n, func(s string) { fmt.Println(time.Since(began).Round(time.Second), s) }); err != nil {
		panic(err)
	}
	fmt.Println(time.Since(began), "done")
}
