package openaitest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// DescriptionEnv names the environment variable with the path of OpenAI's own
// description of its API (OpenAPI, as JSON). Without it the file is looked for
// as shared/openai/openapi.chat-and-responses.json beside the folders that
// lead to the test.
const DescriptionEnv = "POSTCALL_OPENAI_SPEC"

// Description is OpenAI's own schema of the body of a request for a chat
// completion. The error is fs.ErrNotExist where its file is not on this machine.
var Description = sync.OnceValues(func() (*jsonschema.Schema, error) {
	path, err := descriptionPath()
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening OpenAI's description: %w", err)
	}
	defer func() { _ = file.Close() }()
	document, err := jsonschema.UnmarshalJSON(file)
	if err != nil {
		return nil, fmt.Errorf("reading OpenAI's description: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("openai.json", document); err != nil {
		return nil, fmt.Errorf("reading OpenAI's description: %w", err)
	}
	schema, err := compiler.Compile("openai.json#/components/schemas/CreateChatCompletionRequest")
	if err != nil {
		return nil, fmt.Errorf("compiling OpenAI's description: %w", err)
	}
	return schema, nil
})

func descriptionPath() (string, error) {
	if path := os.Getenv(DescriptionEnv); path != "" {
		if _, err := os.Stat(path); err != nil {
			// Not wrapped: a wrong name is not the same as no file on this machine.
			return "", fmt.Errorf("%s: %s", DescriptionEnv, err.Error())
		}
		return path, nil
	}
	folder, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("looking for OpenAI's description: %w", err)
	}
	for {
		path := filepath.Join(folder, "shared", "openai", "openapi.chat-and-responses.json")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", fmt.Errorf("%s is not set and no shared/openai is near: %w", DescriptionEnv, fs.ErrNotExist)
		}
		folder = parent
	}
}

// hold checks the bodies of the requests that were answered against OpenAI's
// own description; those that the server refused are a test's own business.
func (s *Server) hold(tb testing.TB) {
	tb.Helper()
	schema, err := Description()
	if errors.Is(err, fs.ErrNotExist) {
		tb.Logf("the requests were not held against OpenAI's description: %v", err)
		return
	}
	if err != nil {
		tb.Error(err)
		return
	}
	for _, q := range s.Requests() {
		if q.Status != 0 {
			continue
		}
		body, err := jsonschema.UnmarshalJSON(bytes.NewReader(q.Body))
		if err == nil {
			err = schema.Validate(body)
		}
		if err != nil {
			tb.Errorf("request %d is not what OpenAI describes: %v", q.N, err)
		}
	}
}
