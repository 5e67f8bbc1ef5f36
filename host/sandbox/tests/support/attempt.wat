
  (import "backstitch:workflow/attempt@0.1.0" (instance $attempt
    (export "heartbeat" (func (param "details" (option string)) (result bool)))))
  (core func $heartbeat (canon lower (func $attempt "heartbeat") (memory $memory)))
  (import "wasi:io/poll@0.2.6" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (import "wasi:clocks/monotonic-clock@0.2.6" (instance $clock
    (alias outer 1 $pollable (type $pollable'))
    (export "pollable" (type $pollable (eq $pollable')))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core instance $host
    (export "heartbeat" (func $heartbeat)) (export "block" (func $block)) (export "subscribe" (func $subscribe)))
