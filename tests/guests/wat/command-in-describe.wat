;; A whole workflow component that gives a command in `describe`, where there is no run to give it for.
(component
  (import "backstitch:workflow/types@0.1.0" (instance $types
    (type $json' string)
    (export "json" (type $json (eq $json')))
    (type $kind' (enum "application" "timeout" "cancelled" "terminated"))
    (export "failure-kind" (type $kind (eq $kind')))
    (type $failure' (record
      (field "kind" $kind) (field "code" string) (field "message" string)
      (field "details" (option $json)) (field "retryable" bool)
      (field "retry-after-ms" (option u64)) (field "attempts" u32)))
    (export "failure" (type $failure (eq $failure')))
    (type $status' (variant
      (case "blocked") (case "completed" $json) (case "failed" $failure) (case "continue-as-new" $json)))
    (export "status" (type (eq $status')))
  ))
  (alias export $types "json" (type $json))
  (alias export $types "status" (type $status))
  (type $description' (record
    (field "name" string) (field "signals" (list string)) (field "queries" (list string))
    (field "input-schema" (option $json)) (field "output-schema" (option $json))))
  (import "workflow-description" (type $description (eq $description')))
  (import "backstitch:workflow/host@0.1.0" (instance $host
    (export "sleep-for" (func (param "ms" u64) (result u32)))
  ))
  (core func $sleep-for (canon lower (func $host "sleep-for")))
  (core module $module
    (import "host" "sleep-for" (func $sleep-for (param i64) (result i32)))
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
    (func (export "describe") (result i32) (drop (call $sleep-for (i64.const 1))) i32.const 0)
    (func (export "start") (param i32 i32 i32 i32) (result i32) unreachable)
    (func (export "resume") (result i32) unreachable)
    (func (export "query") (param i32 i32 i32 i32) (result i32) unreachable)
  )
  (core instance $main (instantiate $module
    (with "host" (instance (export "sleep-for" (func $sleep-for))))))
  (alias core export $main "memory" (core memory $memory))
  (alias core export $main "cabi_realloc" (core func $realloc))
  (func (export "describe") (result (list $description))
    (canon lift (core func $main "describe") (memory $memory)))
  (func (export "start") (param "workflow" string) (param "input" $json) (result $status)
    (canon lift (core func $main "start") (memory $memory) (realloc $realloc)))
  (func (export "resume") (result $status)
    (canon lift (core func $main "resume") (memory $memory)))
  (func (export "query") (param "name" string) (param "input" $json) (result (result $json (error string)))
    (canon lift (core func $main "query") (memory $memory) (realloc $realloc)))
)
