// Command netpolicy checks, explains and tests policies, and talks to the daemon.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
)

func main() { os.Exit(cli.Run(context.Background(), newRoot(), os.Args[1:])) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "netpolicy",
		Short:         "Check, explain and test network policies",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		newLintCmd(), newExplainCmd(), newDecideCmd(), newTestCmd(), newReplayCmd(), newInspectCmd(), newLabCmd(),
		newListsCmd(), newFmtCmd(), newConvertCmd(), newHashCmd(), newInitCmd(), newExplainCodeCmd(), newImportCmd(), newLSPCmd(), newDoctorCmd(),
		newStatusCmd(), newUplinksCmd(), newTailCmd(), newTopCmd(), newConnectionsCmd(), newKillCmd(), newRulesCmd(), newEventsCmd(), newLogsCmd(), newMetricsCmd(), newReloadCmd(), newStateCmd(), newTokenCmd(), cli.NewVersionCmd("netpolicy"),
		newApplyCmd(), newConfirmCmd(), newRollbackCmd(), newHistoryCmd(), newPlanCmd(), newXrayCmd(),
	)
	return root
}
