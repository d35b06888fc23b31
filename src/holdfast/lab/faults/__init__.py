"""Reusable fault tools (T1, T2, ...): each injects exactly what it says, and has a test of that.

========= ====================================== =============================================
tool      module                                 injects
========= ====================================== =============================================
T1        `holdfast.lab.faults.relay`            network behaviour on live connections
T2, T6    `holdfast.lab.faults.process`          a frozen, thawed or killed process
T3        `holdfast.lab.faults.backlog`          a TCP connect that hangs
T4        `holdfast.lab.faults.drop`             silent packet loss (root only)
T5, T12   `holdfast.lab.faults.dns`              name lookups that fail, hang or lead astray
T10       `holdfast.lab.faults.tls`              certificates with a flaw
          `holdfast.lab.faults.forward_proxy`    a proxy that refuses, hangs, knows no WebSockets
T11       `holdfast.lab.faults.html`             a web page instead of every answer
T13       `holdfast.lab.faults.blocker`          a blocked event loop
T14       `holdfast.killpoints`                  a crash at an exact step
T16       `holdfast.lab.faults.rival`            a second owner of an account
========= ====================================== =============================================

Nothing is imported here: T10 needs the ``cryptography`` package, the others do not.
"""
