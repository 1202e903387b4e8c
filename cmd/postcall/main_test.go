package main

import (
	"testing"

	"postcall/pkg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
