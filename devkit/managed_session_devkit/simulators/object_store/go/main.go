// An S3 server for tests, in memory. It checks the signature (SigV4) of every request.
//
// A second address serves the tests themselves:
//
//	GET, PUT /objects/BUCKET/KEY   an object's content
//	PUT /buckets/BUCKET            a new bucket
//	PUT /keys/ID                   accept this access key; the body is its secret
//	DELETE /keys/ID                accept it no more
//	POST /down, POST /up           close the server's port and all connections; listen on it again
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/rclone/gofakes3"
	"github.com/rclone/gofakes3/s3mem"
)

// As long as no key is known, gofakes3 accepts every request.
var nobody = map[string]string{"nobody": "no-one-knows-it"}

type store struct {
	backend *s3mem.Backend
	s3      *gofakes3.GoFakeS3
	mutex   sync.Mutex
	server  *http.Server
	address string
}

func (s *store) up() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.server != nil {
		return nil
	}
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	s.address = listener.Addr().String()
	s.server = &http.Server{Handler: s.s3.Server()}
	go s.server.Serve(listener)
	return nil
}

func (s *store) down() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.server == nil {
		return nil
	}
	err := s.server.Close()
	s.server = nil
	return err
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
	}
}

func (s *store) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /objects/{bucket}/{key...}", func(w http.ResponseWriter, r *http.Request) {
		object, err := s.backend.GetObject(r.Context(), r.PathValue("bucket"), r.PathValue("key"), nil)
		if err != nil {
			answer(w, err)
			return
		}
		defer object.Contents.Close()
		io.Copy(w, object.Contents)
	})
	mux.HandleFunc("PUT /objects/{bucket}/{key...}", func(w http.ResponseWriter, r *http.Request) {
		meta := map[string]string{"Last-Modified": time.Now().UTC().Format(http.TimeFormat)}
		_, err := s.backend.PutObject(
			r.Context(), r.PathValue("bucket"), r.PathValue("key"), meta, r.Body, r.ContentLength)
		answer(w, err)
	})
	mux.HandleFunc("PUT /buckets/{bucket}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, s.backend.CreateBucket(r.Context(), r.PathValue("bucket")))
	})
	mux.HandleFunc("PUT /keys/{id}", func(w http.ResponseWriter, r *http.Request) {
		secret, err := io.ReadAll(r.Body)
		s.s3.AddAuthKeys(map[string]string{r.PathValue("id"): string(secret)})
		answer(w, err)
	})
	mux.HandleFunc("DELETE /keys/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.s3.DelAuthKeys([]string{r.PathValue("id")})
	})
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, r *http.Request) { answer(w, s.down()) })
	mux.HandleFunc("POST /up", func(w http.ResponseWriter, r *http.Request) { answer(w, s.up()) })
	return mux
}

func main() {
	backend := s3mem.New()
	s := &store{backend: backend, address: "127.0.0.1:0"}
	s.s3 = gofakes3.New(backend, gofakes3.WithV4Auth(nobody))
	if err := s.up(); err != nil {
		log.Fatal(err)
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(control, s.routes())
	json.NewEncoder(os.Stdout).Encode(map[string]string{
		"url":     fmt.Sprintf("http://%s", s.address),
		"control": fmt.Sprintf("http://%s", control.Addr()),
	})
	// It ends with whoever started it.
	io.Copy(io.Discard, os.Stdin)
}
