;; Exports `describe` with the right type, and none of the other three functions.
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
  (core module $module
    (memory (export "memory") 1)
    ;; An empty list: its pointer and length are the zeroes at address 0.
    (func (export "describe") (result i32) i32.const 0)
  )
  (core instance $main (instantiate $module))
  (alias core export $main "memory" (core memory $memory))
  (func (export "describe") (result (list $description))
    (canon lift (core func $main "describe") (memory $memory)))
)
