package main

import (
	"bufio"
	"bytes"
	"io"
)

// The longest line that passes: 32 MiB and its end.
const maxLine = 32<<20 + 2

// filtered is an event stream without its comments. A goroutine scans it line by line and writes to a pipe, an event
// at a time.
func filtered(body io.ReadCloser) io.ReadCloser {
	reader, writer := io.Pipe()
	go func() {
		defer body.Close()
		writer.CloseWithError(copyEvents(writer, body))
	}()
	return reader
}

// copyEvents drops comments, and the blank line behind a block that held nothing else.
func copyEvents(w io.Writer, r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine+1)
	lines.Split(scanWholeLines)
	out := bufio.NewWriterSize(w, 64<<10)
	kept, dropped := false, false
	for lines.Scan() {
		line := lines.Bytes()
		switch {
		case line[0] == ':':
			dropped = true
		case !isBlank(line):
			kept = true
			if _, err := out.Write(line); err != nil {
				return err
			}
		default:
			if kept || !dropped {
				if _, err := out.Write(line); err != nil {
					return err
				}
				if err := out.Flush(); err != nil {
					return err
				}
			}
			kept, dropped = false, false
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return out.Flush()
}

// scanWholeLines is bufio.ScanLines that leaves each line its end, so that every byte that stays is as it came.
func scanWholeLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if at := bytes.IndexByte(data, '\n'); at >= 0 {
		return at + 1, data[:at+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func isBlank(line []byte) bool {
	return line[0] == '\n' || string(line) == "\r\n"
}
