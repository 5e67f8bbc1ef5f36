(component
  (import "backstitch:workflow/types@0.1.0" (instance $types
    (type $kind' (enum "application" "timeout" "cancelled" "terminated"))
    (export "failure-kind" (type $kind (eq $kind')))
    (type $failure' (record
      (field "kind" $kind) (field "code" string) (field "message" string)
      (field "details" (option string)) (field "retryable" bool)
      (field "retry-after-ms" (option u64)) (field "attempts" u32)))
    (export "failure" (type $failure (eq $failure')))
  ))
  (alias export $types "failure" (type $failure))

  (core module $libc
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 32768))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (global.get $top))
      (global.set $top (i32.and (i32.add (i32.add (global.get $top) (local.get 3)) (i32.const 7)) (i32.const -8)))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
  {{imports}}

  (core module $guest
    (import "libc" "memory" (memory 1))
    {{core-imports}}
    (data (i32.const 4096) "work{not json")
    (func $ok (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 1024) (i32.const 0))
      (i32.store (i32.const 1032) (local.get $at))
      (i32.store (i32.const 1036) (local.get $length))
      (i32.const 1024))
    {{functions}}
    ;; More arguments than there are for a call: they are in memory, as the canonical ABI lays them out.
    (func $invoke (export "invoke") (param $arguments i32) (result i32)
      (local $input i32) (local $input-length i32) (local $key i32) (local $key-length i32)
      (local.set $input (i32.load offset=8 (local.get $arguments)))
      (local.set $input-length (i32.load offset=12 (local.get $arguments)))
      (local.set $key (i32.load offset=40 (local.get $arguments)))
      (local.set $key-length (i32.load offset=44 (local.get $arguments)))
      {{invoke}})
    (func (export "describe") (result i32)
      (i32.store (i32.const 1024) (i32.const 1040))
      (i32.store (i32.const 1028) (i32.const 1))
      (i32.store (i32.const 1040) (i32.const 4096))
      (i32.store (i32.const 1044) (i32.const 4))
      (i32.const 1024)))
  (core instance $guest (instantiate $guest (with "libc" (instance $libc)) {{with}}))

  (type $description' (record
    (field "name" string) (field "task-queue" (option string))
    (field "input-schema" (option string)) (field "output-schema" (option string))))
  (export $description "activity-description" (type $description'))
  (type $context' (record
    (field "run-id" string) (field "workflow-id" string) (field "op" u32) (field "attempt" u32)
    (field "idempotency-key" string) (field "deadline-ms" (option u64))
    (field "heartbeat-details" (option string))))
  (export $context "context" (type $context'))
  (func (export "describe") (result (list $description))
    (canon lift (core func $guest "describe") (memory $memory)))
  (func (export "invoke")
    (param "name" string) (param "input" string) (param "context" $context)
    (result (result string (error $failure)))
    (canon lift (core func $guest "invoke") (memory $memory) (realloc $realloc))))
